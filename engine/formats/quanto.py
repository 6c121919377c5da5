"""optimum-quanto's files: `P.weight._data` with `_scale`, or `_data._data` with `_shift` too.

The map of a saved folder (`quanto_qmap.json`) says no more than the dtypes and shapes do.
"""

from __future__ import annotations

from ..format import Contents, Format
from ..source import Source
from ..tensors import TensorSpec
from ._foreign import detected
from ._layers import Reading
from ._stored import (
    check_finite,
    check_scales,
    coded,
    dtype_of,
    eight_bits,
    grouping,
    leave_activations,
    name_of,
    needed,
)

INNER = ("._data._data", "._data", "._scale", "._shift")
FLOAT_SHIFTS = ("BF16", "F16", "F32")


def key_of(name: str) -> str | None:
    """The parameter that a stored tensor belongs to."""
    inner = next((end for end in INNER if name.endswith(end)), None)
    key = name.removesuffix(inner) if inner else ""
    return key if key.endswith(".weight") or key == "weight" else None


def signs(source: Source) -> bool:
    """Codes spelled as an attribute of the weight."""
    return any(name.endswith("._data") and key_of(name) for name in source.tensors)


def rows_of(reading: Reading, key: str, groups: int) -> int | None:
    """How many rows a packed weight has: as many as its module's bias, or None."""
    bias = reading.source.tensors.get(f"{name_of(key)}.bias")
    if bias is not None and bias.elements and groups % bias.elements == 0:
        return bias.elements
    found = f"{groups} groups of packed codes" + (f", {bias.elements} biases" if bias else "")
    reading.tell("rows-unknown", found, name_of(key))
    return None


def packed_bits(
    reading: Reading, key: str, packed: TensorSpec, scale: TensorSpec, shift: TensorSpec
) -> None:
    """List codes of 4 or 2 bits in groups of the inputs."""
    groups, rows = scale.elements, packed.shape[0] if packed.shape else 0
    size = packed.elements // max(1, rows)
    widths = [bits for bits in (4, 2) if rows == -(-groups * bits // 8)]
    if packed.dtype != "U8" or len(widths) != 1 or shift.elements != groups:
        found = f"{packed.dtype} {list(packed.shape)} for {groups} scales, {shift.elements} shifts"
        reading.tell("codes-shape", found, name_of(key))
        return
    check_scales(reading, key, scale)
    if shift.dtype in FLOAT_SHIFTS:
        check_finite(reading, key, shift)
    n = rows_of(reading, key, groups)
    if n is None:
        return
    k = groups // n * size
    settings = {**grouping(widths[0], size, k, scale), "centered": False}
    tensors = {"weight": packed.name, "scale": scale.name, "shift": shift.name}
    coded(reading, key, (n, k), "quanto_bits", tensors, settings, dtype_of(reading, scale))


def list_weight(reading: Reading, key: str) -> None:
    """List one weight by its dtype and the shape of its scale."""
    tensors = reading.source.tensors
    if f"{key}._data" in tensors:
        found = needed(reading, key, f"{key}._data", f"{key}._scale")
        if found:
            eight_bits(reading, key, *found)
    elif f"{key}._data._data" in tensors:
        found = needed(reading, key, f"{key}._data._data", f"{key}._scale", f"{key}._shift")
        if found:
            packed_bits(reading, key, *found)
    else:
        alone = [key + end for end in INNER if key + end in tensors]
        reading.used.update(alone)
        reading.tell("orphan-scale", f"{alone[0]} without codes", name_of(key))


def split(source: Source) -> Contents:
    """Quantized weights, activations as they are, the rest as it is."""
    reading = Reading(source)
    for key in dict.fromkeys(filter(None, map(key_of, source.tensors))):
        list_weight(reading, key)
    leave_activations(reading)
    return reading.contents("quanto")


FORMAT = Format("quanto", "optimum-quanto checkpoint", detected(signs), split)
