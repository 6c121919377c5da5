"""Unmarked codes with a `weight_scale` in, layers out: the scale's shape tells the scheme."""

from __future__ import annotations

from ..format import Contents
from ..source import Source
from ._layers import Claim, Reading, quantized_names
from ._names import SCALES, Module, is_quantized, is_unmarked, modules
from ._scales import fit

SAVED_PREFIX = "model.diffusion_model."
UNMARKED = Claim(unmarked="scale-without-marker", without_scale="fp8-without-scale")


def _is_block(module: Module) -> bool:
    """The module's scale has one number a tile."""
    weight = module.get("weight")
    scale = next((module[key] for key in SCALES if key in module), None)
    if weight is None or scale is None or not is_quantized(weight):
        return False
    return fit(weight, scale).startswith("block")


def layout(source: Source) -> str | None:
    """`blocks`, `saved` (int8 saved through ComfyUI) or `rows`; None for marked files."""
    if not is_unmarked(source):
        return None
    found = modules(source)
    if any("weight_scale_inv" in module or _is_block(module) for module in found.values()):
        return "blocks"
    saved = any(
        name.startswith(SAVED_PREFIX) and "weight" in module and module["weight"].dtype == "I8"
        for name, module in found.items()
    )
    return "saved" if saved else "rows"


def read_rows(source: Source) -> Reading:
    """The quantized layers of an unmarked file."""
    reading = Reading(source)
    for name in quantized_names(reading):
        reading.codes(name, UNMARKED)
    return reading


def split_rows(source: Source, format_name: str) -> Contents:
    """All layers of an unmarked file."""
    return read_rows(source).contents(format_name)
