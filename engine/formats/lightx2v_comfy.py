"""LightX2V's int8 files in ComfyUI mode: int8 codes under a marker that says float8."""

from __future__ import annotations

from ..format import Contents, Format
from ..source import Source
from ._names import has_codes, is_legacy
from ._scaled import split_scaled


def detect(source: Source) -> bool:
    """The float8 marker above int8 codes."""
    return is_legacy(source) and has_codes(source, "I8")


def split(source: Source) -> Contents:
    """Int8 codes with one scale a tensor: the dtype is believed, not the marker."""
    return split_scaled(source, "lightx2v_comfy")


FORMAT = Format("lightx2v_comfy", "LightX2V int8 (scaled_fp8 marker)", detect, split)
