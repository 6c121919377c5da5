"""Int8 codes without any scale: recognised and refused, the numbers are lost."""

from __future__ import annotations

from ..errors import Refused
from ..format import Contents, Format
from ..problem_kinds import KINDS
from ..source import Source
from ._names import SCALES, has_codes, has_marker, is_closed, leaves, legacy_markers


def detect(source: Source) -> bool:
    """Int8 codes, no scale, no marker."""
    return (
        is_closed(source)
        and has_codes(source, "I8")
        and not has_marker(source)
        and not legacy_markers(source)
        and leaves(source).isdisjoint(SCALES)
    )


def split(source: Source) -> Contents:
    """Refuse, naming the first layer."""
    name = next(name for name, spec in source.tensors.items() if spec.dtype == "I8")
    kind = KINDS["int8-without-scale"]
    raise Refused(
        "int8-without-scale",
        found="int8 codes alone",
        expected=kind.expected,
        fix=kind.fix,
        layer=name.removesuffix(".weight"),
    )


FORMAT = Format("int8_bare", "int8 codes without scales", detect, split)
