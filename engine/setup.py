"""A setup: what the Advisor proposes for a model on a machine, and what other nodes take from it.

It travels between nodes as FQ_PLAN. None leaves a choice as it is without a plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# ways that a model may use a device, as the VRAM Manager spells them
AUTO, LIMIT, LOW, KEEP = "auto", "limit", "low VRAM", "keep resident"
# what becomes of LoRAs: what is fixed is fused, what changes is live, of both kinds each its way
FUSE, LIVE, BOTH = "fuse", "live", "fuse and live"


@dataclass(frozen=True)
class Needs:
    """Predicted bytes: of the device while sampling, of main memory, of new files, of the model."""

    vram_bytes: int
    ram_bytes: int
    disk_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Setup:
    """One way to run a model.

    Quantize Model takes `scheme`, `backend`, `keep` and `max_bytes` (a budget for the weights).
    VRAM Manager takes `mode`, `limit_bytes` and `buffer_bytes`. `loras`: FUSE what is fixed, LIVE
    what changes, or BOTH. `files`: published files to load in the place of quantizing. `reasons`:
    one sentence each, blockers first.
    """

    scheme: str
    needs: Needs
    backend: str | None = None
    keep: tuple[str, ...] = ()
    max_bytes: int | None = None
    mode: str = AUTO
    limit_bytes: int | None = None
    buffer_bytes: int | None = None
    text_scheme: str = "none"
    text_device: str = "default"
    vae_dtype: str = "bf16"
    attention: str | None = None
    compile: bool = False
    loras: str = FUSE
    reasons: tuple[str, ...] = field(default=())
    files: tuple[str, ...] = ()
