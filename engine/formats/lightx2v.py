"""LightX2V's own files and their like: codes with a `weight_scale` per row or tensor, no marker."""

from __future__ import annotations

from ..format import Contents, Format
from ..source import Source
from ._rows import layout, split_rows


def detect(source: Source) -> bool:
    """Unmarked codes with row or tensor scales."""
    return layout(source) == "rows"


def split(source: Source) -> Contents:
    """Int8 or float8 rows, scales [N, 1] in bf16 or fp32."""
    return split_rows(source, "lightx2v")


FORMAT = Format("lightx2v", "LightX2V native rows (weight_scale, no marker)", detect, split)
