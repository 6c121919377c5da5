"""A `scaled_fp8` file in, layers out: a spelling that float8 and LightX2V's int8 files share."""

from __future__ import annotations

from ..format import Contents
from ..source import Source
from ._layers import Claim, Reading, quantized_names
from ._names import covering_marker, legacy_markers

# stock ComfyUI reads every layer of such a file as e4m3
WRONG = {"F8_E5M2": "e5m2-under-e4m3", "I8": "fp8-marker-on-int8-file"}


def claim_of(reading: Reading, name: str) -> Claim:
    """What the marker above a layer says: one scale; two elements: full precision products."""
    marker = covering_marker(reading.source, name)
    if marker is None or "scale_weight" not in reading.modules[name]:
        return Claim(unmarked="scale-without-marker", without_scale="fp8-without-scale")
    settings: dict[str, object] = {}
    if reading.source.tensors[marker].elements == 2:
        settings["full_precision_matrix_mult"] = True
    return Claim(("tensor",), WRONG, float32_scales=True, settings=settings)


def split_scaled(source: Source, format_name: str) -> Contents:
    """Codes with their `scale_weight` and `scale_input`, the rest as it is."""
    reading = Reading(source)
    names = quantized_names(reading)
    bare = not any(name.endswith(".scale_weight") for name in source.tensors)
    for marker in legacy_markers(source) if bare else ():
        reading.tell("marker-without-scales", f"{marker} in a file without scale_weight")
    for name in names:
        claim = claim_of(reading, name)
        reading.codes(name, Claim(unmarked=claim.unmarked) if bare else claim)
    return reading.contents(format_name)
