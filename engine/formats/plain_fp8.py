"""Bare float8 casts: codes that stand for their own value, no scale anywhere."""

from __future__ import annotations

from ..format import Contents, Format
from ..source import Source
from ._layers import Reading
from ._names import SCALES, has_codes, has_marker, is_closed, leaves, legacy_markers


def detect(source: Source) -> bool:
    """Float8 codes without scales and markers."""
    return (
        is_closed(source)
        and has_codes(source, "F8_E4M3", "F8_E5M2")
        and not has_codes(source, "I8")
        and not has_marker(source)
        and not legacy_markers(source)
        and leaves(source).isdisjoint(SCALES)
    )


def split(source: Source) -> Contents:
    """Every tensor as one layer: value = code; biases and norms are plain float8 numbers."""
    return Reading(source).contents("plain_fp8")


FORMAT = Format("plain_fp8", "unscaled float8 cast", detect, split, core_reads=True)
