"""LightX2V's nvfp4 and mx files (bytes with float8 block scales): recognised and refused."""

from __future__ import annotations

from ..source import Source
from ._foreign import foreign
from ._names import modules

SCALES = ("F8_E4M3", "F8_E8M0")


def signs(source: Source) -> bool:
    """Uint8 matrices called weight, with block scales that are float8 numbers themselves."""
    for module in modules(source).values():
        weight, scale = module.get("weight"), module.get("weight_scale")
        if weight is None or scale is None or weight.dtype != "U8" or len(weight.shape) != 2:
            continue
        if scale.dtype in (*SCALES, "U8"):
            return True
    return False


FORMAT = foreign("microscaled", "LightX2V nvfp4 or mx checkpoint", signs)
