"""A patcher in, the patcher with our VRAM Manager on it and what it told out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fusequant.host import memory, vram
from fusequant.host.report import GIB

from .card import GB, Skipped, cuda_device

Told = Callable[[], dict[str, Any]]


def limited(patcher: Any, limit_gb: float) -> tuple[Any, Told]:
    """`watched` with a limit on the whole card.

    A card whose ComfyUI lets no limit act is skipped; on a CPU the manager only measures.
    """
    blocked = vram.why_not(patcher) if cuda_device() else None
    if blocked:
        raise Skipped(blocked)
    return watched(patcher, memory.LIMIT, limit_gb * GB / GIB)


def watched(patcher: Any, mode: str = memory.AUTO, limit_gib: float = 0.0) -> tuple[Any, Told]:
    """(managed clone, what the manager predicted and measured, asked once the run is over)."""
    managed, _ = memory.manage(patcher, memory.asked(mode, limit_gib, None))

    def told() -> dict[str, Any]:
        found = memory.measured(managed)
        if found is None or not found.runs:
            return {"manager": "it measured nothing"}
        run = found.runs[-1]
        return {
            "predicted_bytes": run.predicted_bytes, "manager_peak_bytes": run.peak_bytes,
            "predicted_error": round(run.predicted_bytes / run.peak_bytes - 1, 4)
            if run.peak_bytes else None,
            "manager": run.text(),
        }  # fmt: skip

    return managed, told
