"""convert_to_quant's own layers in, listed out: int8 in tiles, hybrid mxfp8."""

from __future__ import annotations

from ..layer import Layer, Part
from ..tensors import TensorSpec
from ._layers import Reading
from ._markers import Marker
from ._names import INPUT_SCALES
from ._packed import packed
from ._scales import check_numbers

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
    """List mxfp8 under another id; its one scalar more is for devices without mxfp8."""
    packed(reading, name, marker)
    reading.tell("hybrid-mxfp8", "mxfp8 codes under the id hybrid_mxfp8", name)
