"""ComfyUI's quantized files: a `comfy_quant` JSON for each layer, in tensors or the header."""

from __future__ import annotations

from collections.abc import Callable

from ..format import Contents, Format
from ..source import Source
from ._int4 import int4
from ._layers import Claim, Reading, quantized_names
from ._markers import DAMAGED, Marker, ids, markers
from ._names import covering_marker, has_marker, is_closed, is_quantized
from ._packed import PACKED, packed, rotates
from ._svdquant import svdquant
from ._tiles import hybrid_mxfp8, int8_blockwise

GROUP = 128
FLOAT8_ON_INT8 = {"I8": "float8-marker-on-int8"}
INT8_ON_FLOAT8 = {"F8_E4M3": "int8-marker-on-float8", "F8_E5M2": "int8-marker-on-float8"}
E4M3 = FLOAT8_ON_INT8 | {"F8_E5M2": "e5m2-under-e4m3"}

# format id: the scales it has and the codes it must not have
CLAIMS = {
    "float8_e4m3fn": Claim(("tensor",), E4M3),
    "float8_e5m2": Claim(("tensor",), FLOAT8_ON_INT8 | {"F8_E4M3": "e4m3-under-e5m2"}),
    "float8_e4m3fn_rowwise": Claim(("row-flat", "row", "tensor"), E4M3),
    "float8_e4m3fn_blockwise": Claim(("block128", "tensor"), E4M3),
    "int8_tensorwise": Claim(("tensor", "row"), INT8_ON_FLOAT8),
}
# format id: who lists a layer whose codes are more than one tensor and its scale
READERS: dict[str, Callable[[Reading, str, Marker], None]] = {
    "awq_w4a16": int4,
    "int8_blockwise": int8_blockwise,
    "svdquant_w4a4": svdquant,
    **dict.fromkeys(PACKED, packed),
    "hybrid_mxfp8": hybrid_mxfp8,
}
READ = frozenset((*CLAIMS, *READERS))


def detect(source: Source) -> bool:
    """Every marker names a format that is read here."""
    return has_marker(source) and is_closed(source) and ids(source) <= READ | {DAMAGED}


def claim_of(marker: Marker, reading: Reading, name: str) -> Claim:
    """What a marker says of its layer's codes."""
    weight = reading.modules[name]["weight"]
    settings: dict[str, object] = {}
    scheme = None
    full = marker.get("full_precision_matrix_mult") is True
    if full:
        settings["full_precision_matrix_mult"] = True
    base = CLAIMS[marker.id or "int8_tensorwise"]
    if weight.dtype == "I8" and full:
        scheme = "int8_weight_only"
    if base is CLAIMS["int8_tensorwise"] and marker.get("convrot"):
        group = marker.size("convrot_groupsize", 256)
        if weight.dtype != "I8":
            reading.tell("rotated-float8", f"{weight.dtype} codes with convrot", name)
        elif not rotates(group, weight.shape):
            found = f"convrot_groupsize {group} for a weight {list(weight.shape)}"
            reading.tell("convrot-groupsize", found, name)
        else:
            scheme = "int8_convrot"
            settings["convrot_groupsize"] = group
    return Claim(
        base.spreads,
        base.wrong_dtype,
        without_scale="marker-without-scales",
        float32_scales=True,
        settings=settings,
        scheme=scheme,
    )


def mark(reading: Reading, name: str, marker: Marker) -> None:
    """List the layer that a marker belongs to."""
    weight = reading.modules.get(name, {}).get("weight")
    if marker.broken:
        reading.tell("marker-not-json", f"a marker of {marker.broken}", name)
    elif weight is None:
        reading.tell("marker-without-layer", f"{marker.id} for no weight", name)
    elif marker.id in READERS:
        READERS[marker.id](reading, name, marker)
    elif weight.dtype == "U8":
        reading.tell("codes-shape", f"U8 {list(weight.shape)} as {marker.id}", name)
    elif is_quantized(weight):
        group = marker.size("group_size", GROUP)
        if marker.id == "float8_e4m3fn_blockwise" and group != GROUP:
            reading.tell("block-size", f"group_size {group}", name)
        reading.codes(name, claim_of(marker, reading, name))
    else:
        reading.tell("marker-on-float", f"{marker.id} on a {weight.dtype} weight", name)


def legacy_claim(reading: Reading, name: str) -> Claim:
    """What a file says of codes without a marker of their own: `scaled_fp8`, or nothing."""
    covered = covering_marker(reading.source, name) is not None
    scaled = "scale_weight" in reading.modules[name] and covered
    return Claim(unmarked=None if scaled else "scale-without-marker")


def split(source: Source) -> Contents:
    """Marked layers by their marker, other codes by their dtype and scale, the rest as it is."""
    reading = Reading(source)
    found = markers(source)
    for name, marker in found.items():
        mark(reading, name, marker)
    for name in quantized_names(reading):
        if name not in found:
            reading.codes(name, legacy_claim(reading, name))
    return reading.contents("core")


FORMAT = Format(
    "core",
    "ComfyUI quantized checkpoint (comfy_quant)",
    detect,
    split,
    core_reads=True,
    notes=(
        "float8_e4m3fn_rowwise, float8_e4m3fn_blockwise, awq_w4a16, int8_blockwise, hybrid_mxfp8 "
        "and svdquant_w4a4 need our loader",
    ),
)
