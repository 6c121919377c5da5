"""GPTQ files: `qweight` and `qzeros` in int32, `scales`, and `g_idx`, the group of each input.

Weights whose inputs were reordered (act-order), AutoAWQ's order and odd bits are refused by name.
"""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Mapping
from functools import cache

from ..format import Contents, Format
from ..source import Source
from ..tensors import TensorSpec
from ._foreign import detected, unread
from ._layers import Reading
from ._names import leaves
from ._stored import check_scales, coded, dtype_of, grouping, needed

BITS = (2, 4, 8)
LEAST_GROUP = 16
CONFIGS = ("quantize_config.json", "config.json")
MAX_CONFIG_BYTES = 1 << 20
LESS_ONE = {"gptq": 1, "gptq_v2": 0}  # by checkpoint_format: what a stored zero point lacks


def signs(source: Source) -> bool:
    """Packed weights with packed zero points."""
    return {"qweight", "qzeros"} <= leaves(source)


def config_of(source: Source) -> Mapping[str, object]:
    """What the JSON beside the file says of its quantization; empty where there is none."""
    folder = source.path if source.path.is_dir() else source.path.parent
    for name in CONFIGS:
        try:
            with (folder / name).open("rb") as handle:
                found = json.loads(handle.read(MAX_CONFIG_BYTES))
            found = found.get("quantization_config", found)
            if found.get("quant_method", "gptq") == "gptq" and "bits" in found:
                return dict(found)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            continue
    return {}


def version_of(source: Source) -> int | None:
    """What is added to a stored zero point, as the header or the JSON beside the file says it."""
    config = config_of(source)
    said = source.metadata.get("gptq_checkpoint_format")
    said = said or str(config.get("checkpoint_format") or ("gptq" if config else ""))
    return LESS_ONE.get(said)


@cache
def groups_in_order(k: int, group: int) -> bytes:
    """The bytes of a g_idx whose inputs are in their order."""
    numbers = array("i", (at // group for at in range(k)))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def zeros_of(reading: Reading, name: str, zeros: TensorSpec, bits: int) -> dict[str, object]:
    """Settings: `centered` where every zero point is the middle, else what is added to each.

    Version 1 stores the middle less one, version 2 as it is: of one number alone both are certain.
    """
    data = reading.source.read_bytes(zeros.name)
    middle = 1 << (bits - 1)
    for stored in (middle - 1, middle):
        byte = sum(stored << at for at in range(0, 8, bits))
        if data.count(byte) == len(data):
            return {"centered": True}
    added = version_of(reading.source)
    if added is None:
        reading.tell("zero-points-unknown", f"{zeros.name} without a checkpoint_format", name)
    return {"centered": False, "zero_below": added or 0}


def bits_of(name: str, qweight: TensorSpec, qzeros: TensorSpec, scales: TensorSpec) -> int:
    """Bits of a code by the shapes; 0 where they do not fit. Refuses what is packed otherwise."""
    if any(len(spec.shape) != 2 for spec in (qweight, qzeros, scales)):
        return 0
    groups, n = scales.shape
    if qweight.shape[1] * 8 == n and qzeros.shape == (groups, n // 8):
        raise unread("awq", "a weight in AutoAWQ's order", name)
    bits = 32 * qzeros.shape[1] // max(1, n)
    if qweight.shape[1] != n or qzeros.shape != (groups, n * bits // 32) or not groups:
        return 0
    if bits not in BITS:
        raise unread(f"gptq-{bits}-bit", f"codes of {bits} bits", name)
    return bits


def list_weight(reading: Reading, name: str) -> None:
    """List one weight under the module's plain name."""
    key = f"{name}.weight"
    found = needed(reading, key, *(f"{name}.{leaf}" for leaf in ("qweight", "qzeros", "scales")))
    if not found:
        return
    qweight, qzeros, scales = found
    bits = bits_of(name, qweight, qzeros, scales)
    k = 32 * qweight.shape[0] // bits if bits else 0
    groups, n = (*scales.shape, 0, 0)[:2]
    fits = bits and not k % groups and (groups == 1 or not k // groups % LEAST_GROUP)
    if not fits or qweight.dtype != "I32" or qzeros.dtype != "I32":
        text = ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in found)
        reading.tell("codes-shape", text, name)
        return
    order = reading.source.tensors.get(f"{name}.g_idx")
    if order is not None:
        reading.used.add(order.name)
        same = order.dtype == "I32" and order.shape == (k,)
        if not same or reading.source.read_bytes(order.name) != groups_in_order(k, k // groups):
            raise unread("gptq-act-order", f"{order.name} in another order (act-order)", name)
    check_scales(reading, key, scales)
    zeros = zeros_of(reading, name, qzeros, bits)
    settings = {**grouping(bits, k // groups, k, scales), **zeros}
    tensors = {"weight": qweight.name, "scale": scales.name, "zeros": qzeros.name}
    coded(reading, key, (n, k), "gptq", tensors, settings, dtype_of(reading, scales))


def split(source: Source) -> Contents:
    """Packed weights, the rest as it is."""
    reading = Reading(source)
    for name, module in reading.modules.items():
        if "qweight" in module or "qzeros" in module:
            list_weight(reading, name)
    return reading.contents("gptq")


FORMAT = Format("gptq", "GPTQ checkpoint", detected(signs), split)
