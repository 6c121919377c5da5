"""Nunchaku SVDQuant files (`qweight` with low-rank branches): recognised and refused."""

from __future__ import annotations

from ..source import Source
from ._foreign import foreign
from ._names import leaves

BRANCHES = ("wscales", "smooth_factor", "smooth", "proj_down", "lora_down")


def signs(source: Source) -> bool:
    """Packed weights with SVDQuant's companions and no packed zero points."""
    found = leaves(source)
    return "qweight" in found and "qzeros" not in found and not found.isdisjoint(BRANCHES)


FORMAT = foreign(
    "nunchaku", "Nunchaku SVDQuant checkpoint", signs, "open it with ComfyUI-nunchaku's loader"
)
