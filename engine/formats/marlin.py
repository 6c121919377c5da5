"""Marlin int4 files (a workspace, or int32 tiles with scales): recognised and refused."""

from __future__ import annotations

from ..source import Source
from ._foreign import foreign
from ._names import modules


def signs(source: Source) -> bool:
    """The workspace, or int32 tiles that fit their scales [K / 128, N]."""
    for module in modules(source).values():
        if "weight_workspace" in module:
            return True
        weight, scale = module.get("weight"), module.get("weight_scale")
        tiles = weight is not None and weight.dtype == "I32" and len(weight.shape) == 2
        if tiles and scale is not None and len(scale.shape) == 2:
            return True
    return False


FORMAT = foreign("marlin", "Marlin int4 checkpoint", signs)
