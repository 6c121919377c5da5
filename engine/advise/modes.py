"""A setup in, what people call such a mode out; the five modes as a table.

The names are those of DiffSynth's scripts: standard keeps LoRAs apart, optimized fuses them first,
low VRAM brings weights in layer by layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..setup import FUSE, LIVE, Setup

ORIGINAL = "Original BF16"


@dataclass(frozen=True)
class Mode:
    """One row: what it is made of and what it is best for. `low`: no weight stays on the card."""

    name: str
    scheme: str
    loras: str
    low: bool
    best_for: str


MODES = (
    Mode(ORIGINAL, "none", FUSE, False, "cards that hold the whole model"),
    Mode("FP8 standard", "fp8", LIVE, False, "finding LoRAs and strengths"),
    Mode("FP8 optimized", "fp8", FUSE, False, "strengths that are settled; every day"),
    Mode("Low VRAM", "fp8", LIVE, True, "small cards, while strengths still change"),
    Mode("Low VRAM optimized", "fp8", FUSE, True, "small cards, strengths settled"),
)


def title_of(setup: Setup, streamed: bool) -> str:
    """`INT8 optimized`, `Low VRAM`, `Original BF16`, ..."""
    kind = "standard" if setup.loras == LIVE else "optimized"
    if setup.scheme == "none":
        return f"{ORIGINAL}, low VRAM" if streamed else ORIGINAL
    if streamed:
        return "Low VRAM" if setup.loras == LIVE else "Low VRAM optimized"
    return f"{setup.scheme.split('_')[0].upper()} {kind}"
