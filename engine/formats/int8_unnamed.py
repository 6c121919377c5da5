"""Int8 files whose `comfy_quant` JSON names no format: the comfy-quants CLI and older INT8-Fast."""

from __future__ import annotations

from dataclasses import replace

from ..format import Contents, Format
from ..source import Source
from ._layers import Claim, Reading, quantized_names
from ._markers import DAMAGED, Marker, ids, markers
from ._names import has_marker, is_closed
from .core import READ, legacy_claim, mark

BY_DTYPE = {"I8": "int8_tensorwise", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


def detect(source: Source) -> bool:
    """Some marker names no format, and none a format that is not read."""
    if not has_marker(source) or not is_closed(source):
        return False
    found = ids(source)
    return None in found and found <= READ | {None, DAMAGED}


def named(marker: Marker, reading: Reading, name: str) -> Marker:
    """The marker with the format that the codes' dtype means."""
    weight = reading.modules.get(name, {}).get("weight")
    if marker.broken or marker.id or weight is None:
        return marker
    reading.tell("marker-without-format", f"JSON {dict(marker.config)}", name)
    known = BY_DTYPE.get(weight.dtype, "int8_tensorwise")
    return replace(marker, config={**marker.config, "format": known})


def split(source: Source) -> Contents:
    """Layers by their marker's settings; `per_row` shows in the scale's shape."""
    reading = Reading(source)
    found = markers(source)
    for name, marker in found.items():
        mark(reading, name, named(marker, reading, name))
    for name in quantized_names(reading):
        if name not in found:
            claim: Claim = legacy_claim(reading, name)
            reading.codes(name, claim)
    return reading.contents("int8_unnamed")


FORMAT = Format("int8_unnamed", "int8 whose comfy_quant names no format", detect, split)
