"""ComfyUI's earlier float8 files: one `scaled_fp8` marker, a `scale_weight` beside each weight."""

from __future__ import annotations

from ..format import Contents, Format
from ..source import Source
from ._names import has_codes, is_legacy
from ._scaled import split_scaled


def detect(source: Source) -> bool:
    """The marker or its scales, and no int8 codes."""
    return is_legacy(source) and not has_codes(source, "I8")


def split(source: Source) -> Contents:
    """Float8 codes with one scale a tensor."""
    return split_scaled(source, "scaled_fp8")


FORMAT = Format("scaled_fp8", "scaled float8 (scaled_fp8 marker)", detect, split, core_reads=True)
