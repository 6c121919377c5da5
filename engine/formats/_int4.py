"""An `awq_w4a16` layer in, listed out: 4-bit codes, two to a byte, scales and zeros by group.

Scales and zeros lie as [K / g, N]. Groups of 128 in 16 bits are the scheme int4_g128 as it is; any
other group is read through a codec.
"""

from __future__ import annotations

from ..bits import not_finite
from ..layer import Layer, Part
from ..tensors import TensorSpec
from ._layers import Reading
from ._markers import Marker

GROUP, DEFAULT_GROUP = 128, 64
HALVES = ("BF16", "F16")
ZEROS = ("weight_zeros", "weight_zero")  # ComfyUI's spelling, comfy-quants' own


def int4(reading: Reading, name: str, marker: Marker) -> None:
    """List packed int4 codes."""
    module = reading.modules[name]
    weight, scale = module["weight"], reading.scale(name, module)
    zeros = next((module[leaf] for leaf in ZEROS if leaf in module), None)
    rows, columns = (*weight.shape, 0, 0)[:2]
    columns *= 2
    if weight.dtype not in ("I8", "U8") or len(weight.shape) != 2:
        reading.tell("codes-shape", f"{weight.dtype} {list(weight.shape)} as packed int4", name)
    group = marker.size("group_size", DEFAULT_GROUP)
    if group < 1 or columns % group:
        reading.tell("group-size", f"groups of {group} for {columns} inputs", name)
        group = GROUP
    beside = [spec for spec in (scale, zeros) if spec is not None]
    for spec in beside:
        expected = (columns // group, rows)
        if spec.shape != expected:
            found = f"{spec.name} {list(spec.shape)} where {list(expected)} fits"
            reading.tell("scale-shape", found, name)
    if scale is None:
        reading.tell("int8-without-scale", "packed int4 codes alone", name)
    if zeros is not None and not_finite(reading.source, zeros):
        reading.tell("scale-not-finite", f"{zeros.name} with NaN or infinity", name)
    tensors = {"weight": weight.name}
    tensors |= {"scale": scale.name} if scale else {}
    tensors |= {"zeros": zeros.name} if zeros else {}
    reading.add(_layer(reading, tensors, (rows, columns), group, beside))


def _layer(
    reading: Reading,
    tensors: dict[str, str],
    shape: tuple[int, int],
    group: int,
    beside: list[TensorSpec],
) -> Layer:
    """The scheme where it holds the same numbers as they are stored, else the codec."""
    dtypes = {spec.dtype for spec in beside}
    halves = len(dtypes) <= 1 and dtypes <= set(HALVES)
    dtype = dtypes.pop() if halves and dtypes else reading.dtype
    if group == GROUP and halves:
        part = Part("int4_g128", tensors, {"group_size": GROUP})
    else:
        settings = {"group_size": group, "halves": halves}
        part = Part("awq_w4a16", tensors, settings, view=shape)
    return Layer(tensors["weight"], shape, dtype, (part,))
