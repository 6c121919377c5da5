"""compressed-tensors files: packed weights (`weight_packed`), or codes with zero points.

Its int-quantized and float-quantized files without zero points are spelled as LightX2V's are.
"""

from __future__ import annotations

from ..bits import integers
from ..format import Contents, Format
from ..source import Source
from ..tensors import TensorSpec
from ._foreign import detected, unread
from ._layers import Reading
from ._names import is_closed, is_quantized, leaves
from ._stored import (
    check_scales,
    coded,
    dtype_of,
    eight_bits,
    expect,
    grouping,
    leave_activations,
    needed,
)

OWN = ("weight_packed", "weight_zero_point", "input_zero_point")
ACTIVATIONS = ("input_scale", "output_scale", "input_zero_point", "output_zero_point")
BITS = (1, 2, 4, 8)  # other widths are packed in one way by some releases, in another by others


def signs(source: Source) -> bool:
    """Packed weights, or integer zero points beside codes."""
    return not leaves(source).isdisjoint(OWN) and not is_closed(source)


def shape_of(reading: Reading, name: str, spec: TensorSpec) -> tuple[int, int] | None:
    """The logical shape that a `weight_shape` tensor holds, or None."""
    found = integers(reading.source, spec) if spec.elements == 2 else []
    if len(found) == 2 and min(found) > 0:
        return found[0], found[1]
    reading.tell("state-unread", f"{spec.name} {list(spec.shape)} of {spec.dtype}", name)
    return None


def refuse_order(reading: Reading, name: str) -> None:
    """Refuse inputs that were reordered."""
    order = reading.modules[name].get("weight_g_idx")
    if order is not None:
        raise unread("compressed-tensors-act-order", f"{order.name} (act-order)", name)


def packed(reading: Reading, name: str) -> None:
    """List a weight whose codes are packed in int32 along its inputs."""
    key, module = f"{name}.weight", reading.modules[name]
    if module["weight_packed"].dtype != "I32":
        dtype = module["weight_packed"].dtype
        raise unread("compressed-tensors-fp4", f"weight_packed of dtype {dtype}", name)
    found = needed(reading, key, *(f"{name}.weight_{x}" for x in ("packed", "scale", "shape")))
    shape = shape_of(reading, name, found[2]) if found else None
    if shape is None:
        return
    (n, k), codes, scale, zeros = shape, found[0], found[1], module.get("weight_zero_point")
    bits = next((bits for bits in BITS if codes.shape == (n, -(-k * bits // 32))), 0)
    groups = scale.shape[1] if len(scale.shape) == 2 else 1
    if not bits or k % groups or scale.elements not in (1, n * groups):
        text = f"{codes.name} {list(codes.shape)}, {scale.name} {list(scale.shape)}"
        reading.tell("codes-shape", f"{text} for a weight {list(shape)}", name)
        return
    check_scales(reading, key, scale)
    tensors = {"weight": codes.name, "scale": scale.name}
    if zeros is not None:
        each = -(-n * bits // 32) if zeros.dtype == "I32" else n
        expect(reading, key, zeros, (each, groups))
        tensors["zeros"] = zeros.name
    settings = {**grouping(bits, k // groups, k, scale), "centered": zeros is None}
    coded(reading, key, shape, "packed_int32", tensors, settings, dtype_of(reading, scale))


def unpacked(reading: Reading, name: str) -> None:
    """List a weight of one code a byte."""
    key, module = f"{name}.weight", reading.modules[name]
    found = needed(reading, key, f"{name}.weight_scale")
    if found:
        zeros = module.get("weight_zero_point")
        eight_bits(reading, key, module["weight"], found[0], zeros=zeros, weight_only=False)


def split(source: Source) -> Contents:
    """Quantized weights by the tensors beside them, the rest as it is."""
    reading = Reading(source)
    for name, module in reading.modules.items():
        if "weight_packed" in module:
            refuse_order(reading, name)
            packed(reading, name)
        elif "weight" in module and is_quantized(module["weight"]):
            refuse_order(reading, name)
            unpacked(reading, name)
    leave_activations(reading, ACTIVATIONS)
    return reading.contents("compressed_tensors")


FORMAT = Format("compressed_tensors", "compressed-tensors checkpoint", detected(signs), split)
