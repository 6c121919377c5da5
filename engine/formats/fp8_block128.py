"""Block-scaled float8: `weight_scale` or `weight_scale_inv`, one number per 128 x 128 tile."""

from __future__ import annotations

from ..format import Contents, Format
from ..source import Source
from ._rows import layout, split_rows


def detect(source: Source) -> bool:
    """Unmarked codes with block scales."""
    return layout(source) == "blocks"


def split(source: Source) -> Contents:
    """Float8 tiles; both scale names are multipliers: value = code * scale[tile]."""
    return split_rows(source, "fp8_block128")


FORMAT = Format("fp8_block128", "block-scaled float8 (128 x 128)", detect, split)
