"""Int8 rows that INT8-Fast saved through ComfyUI: no marker, and no word of a rotation."""

from __future__ import annotations

from ..format import Contents, Format
from ..source import Source
from ._rows import layout, read_rows


def detect(source: Source) -> bool:
    """Unmarked int8 rows under `model.diffusion_model.`."""
    return layout(source) == "saved"


def split(source: Source) -> Contents:
    """Int8 rows, taken as not rotated, with a warning."""
    reading = read_rows(source)
    reading.tell("maybe-rotated", "int8 rows saved by a tool that may rotate weights")
    return reading.contents("int8_saved")


FORMAT = Format("int8_saved", "INT8-Fast rows saved through ComfyUI (no marker)", detect, split)
