"""Unquantized checkpoints: every tensor is a parameter in bf16, fp16 or fp32, or an index."""

from __future__ import annotations

from ..format import Contents, Format
from ..source import Source
from ._layers import Reading
from ._names import has_codes, has_marker, is_closed, legacy_markers


def detect(source: Source) -> bool:
    """No codes, no markers, no adapters."""
    return (
        is_closed(source)
        and not has_codes(source, "I8", "F8_E4M3", "F8_E5M2")
        and not has_marker(source)
        and not legacy_markers(source)
    )


def split(source: Source) -> Contents:
    """Every tensor as one plain layer."""
    return Reading(source).contents("plain")


FORMAT = Format("plain", "unquantized checkpoint", detect, split, core_reads=True)
