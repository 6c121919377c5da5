"""convert_to_quant's own layers in, listed out: int8 in tiles, hybrid mxfp8."""

from __future__ import annotations

import math

from ..layer import Layer, Part
from ..tensors import TensorSpec
from ._layers import Reading
from ._markers import Marker
from ._names import INPUT_SCALES
from ._scales import check_numbers

BLOCK, PADDED_ROWS, PADDED_COLUMNS = 32, 128, 4
NOT_A_NUMBER = 0xFF  # of e8m0
DTYPES = {"torch.bfloat16": "BF16", "torch.float16": "F16", "torch.float32": "F32"}


def _dtype(reading: Reading, marker: Marker) -> str:
    """What the weight was before it was quantized, as far as the marker says it."""
    return DTYPES.get(str(marker.get("orig_dtype")), reading.dtype)


def _checked(reading: Reading, name: str, scale: TensorSpec, expected: tuple[int, ...]) -> None:
    if scale.shape != expected:
        found = f"{scale.name} {list(scale.shape)} where {list(expected)} fits"
        reading.tell("scale-shape", found, name)


def int8_blockwise(reading: Reading, name: str, marker: Marker) -> None:
    """List int8 codes with one scale for each g x g tile."""
    module = reading.modules[name]
    weight, scale = module["weight"], reading.scale(name, module)
    group = marker.size("group_size", 128)
    if weight.dtype != "I8" or len(weight.shape) != 2:
        reading.tell("codes-shape", f"{weight.dtype} {list(weight.shape)} as int8 in tiles", name)
    elif group < 1:
        reading.tell("group-size", f"tiles of {group}", name)
    elif scale is not None:
        _checked(reading, name, scale, tuple(-(-side // group) for side in weight.shape))
    if scale is None:
        reading.tell("int8-without-scale", "int8 codes alone", name)
    tensors = {"weight": weight.name} | ({"scale": scale.name} if scale else {})
    for leaf in INPUT_SCALES:
        if leaf in module:
            reading.problems += check_numbers(reading.source, module[leaf], name)
            tensors["input_scale"] = module[leaf].name
    part = Part("int8_blockwise", tensors, {"group_size": group})
    reading.add(Layer(weight.name, weight.shape, _dtype(reading, marker), (part,)))


def hybrid_mxfp8(reading: Reading, name: str, marker: Marker) -> None:
    """List e4m3 codes with an exponent for each 32 inputs, both padded."""
    module = reading.modules[name]
    weight, scale, scalar = (
        module.get(leaf) for leaf in ("weight", "weight_scale", "weight_scalar")
    )
    if weight is None:
        return
    shape = _shape(marker, weight)
    if shape is None:
        found = f"{weight.dtype} {list(weight.shape)} for {marker.get('orig_shape')}"
        reading.tell("codes-shape", found, name)
        shape = weight.shape
    tensors = {"weight": weight.name}
    if scale is None:
        reading.tell("marker-without-scales", "mxfp8 codes alone", name)
        reading.tell("scale-shape", "no weight_scale", name)
    else:
        tensors["scale"] = scale.name
        if scale.dtype not in ("U8", "F8_E8M0"):
            reading.tell("scale-dtype", f"{scale.name} of dtype {scale.dtype}", name)
        elif NOT_A_NUMBER in reading.source.read_bytes(scale.name):
            reading.tell("scale-not-finite", "exponents that stand for NaN", name)
        padded = _padded(weight.shape)
        if math.prod(scale.shape) != math.prod(padded):
            _checked(reading, name, scale, padded)
    if scalar is not None:
        tensors["scalar"] = scalar.name
    settings = {"columns": shape[1] if len(shape) > 1 else 0}
    part = Part("hybrid_mxfp8", tensors, settings, view=tuple(shape))
    reading.add(Layer(weight.name, tuple(shape), _dtype(reading, marker), (part,)))


def _shape(marker: Marker, weight: TensorSpec) -> tuple[int, ...] | None:
    """(n, k) before the padding; None where it cannot be that of these codes."""
    told = marker.get("orig_shape")
    sides = told if isinstance(told, list) else list(weight.shape)
    whole = len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)
    if weight.dtype != "F8_E4M3" or len(weight.shape) != 2 or weight.shape[1] % BLOCK or not whole:
        return None
    padded = [-(-side // BLOCK) * BLOCK for side in sides]
    return tuple(sides) if list(weight.shape) in (sides, padded) else None


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the exponents of padded codes: rows to 128, columns to 4."""
    if len(shape) != 2:
        return (0,)
    rows, columns = -(-shape[0] // PADDED_ROWS), -(-(shape[1] // BLOCK) // PADDED_COLUMNS)
    return rows * PADDED_ROWS, columns * PADDED_COLUMNS
