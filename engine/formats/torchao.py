"""torchao's safetensors files: `P._weight_qdata` and its like, what they are as JSON in the header.

The header has `tensor_names`, a JSON list, and for each of the names the JSON of its type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..bits import all_zero
from ..format import Contents, Format
from ..source import Source
from ..tensors import DTYPES, TensorSpec
from ._foreign import detected, unread
from ._layers import Reading
from ._stored import (
    HALVES,
    check_finite,
    check_scales,
    coded,
    eight_bits,
    expect,
    grouping,
    name_of,
    needed,
)

# type: the tensors without which its numbers are unknown; others that bear on them
TYPES = {
    "Int8Tensor": ("qdata", "scale"),
    "Float8Tensor": ("qdata", "scale"),
    "IntxUnpackedToInt8Tensor": ("qdata", "scale", "zero_point"),
    "Int4Tensor": ("qdata", "scale", "zero_point"),
}
PLAIN, LONGEST_TYPE = "Tensor", 64
CODES, EARLIER = "_weight_qdata", "weight:qdata"
ACTIVATIONS = ("act_quant_scale", "act_quant_zero_point")
DTYPE_NAMES = {torch_name: name for name, (_, torch_name) in DTYPES.items()}


def signs(source: Source) -> bool:
    """Packed tensors spelled with the attribute's name."""
    return any(name.endswith((CODES, EARLIER)) for name in source.tensors)


@dataclass(frozen=True)
class Stored:
    """One weight of the header: its key, its type and what that type says of it."""

    key: str
    type: str
    facts: Mapping[str, object]

    def tensor(self, role: str) -> str:
        """The name of one of its tensors."""
        module, _, leaf = self.key.rpartition(".")
        return f"{module}._{leaf}_{role}"

    def dtype(self, fact: str) -> str | None:
        """A dtype among the facts, by its torch name."""
        found = self.facts.get(fact)
        name = found.get("_data") if isinstance(found, dict) else None
        return name if isinstance(name, str) else None

    def sizes(self, fact: str) -> tuple[int, ...]:
        """A shape among the facts; empty where it is none."""
        found = self.facts.get(fact)
        good = isinstance(found, list) and all(isinstance(x, int) and x > 0 for x in found)
        return tuple(found) if good and isinstance(found, list) else ()


def stored(source: Source) -> list[Stored] | None:
    """What the header lists; None where it is not the JSON that torchao writes."""
    try:
        names = json.loads(source.metadata.get("tensor_names", ""))
        found = {name: json.loads(source.metadata[name]) for name in names}
        return [
            Stored(name, str(row["_type"]), dict(row.get("_data") or {}))
            for name, row in found.items()
            if row["_type"] != PLAIN
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def int4(reading: Reading, weight: Stored, qdata: TensorSpec, *grids: TensorSpec) -> None:
    """List two codes a byte with scales and zeros [k / g, n]."""
    key, shape, block = weight.key, weight.sizes("shape"), weight.sizes("block_size")
    packed = len(shape) == 2 and qdata.shape == (shape[0], -(-shape[1] // 2))
    if not packed or qdata.dtype not in ("I8", "U8") or len(block) != 2 or block[0] != 1:
        found = f"{qdata.dtype} {list(qdata.shape)} for a weight {list(shape)}"
        reading.tell("codes-shape", f"{found} in blocks of {list(block)}", name_of(key))
        return
    (n, k), group = shape, block[1]
    scale, zeros = grids
    check_scales(reading, key, scale)
    check_finite(reading, key, zeros)
    if not all(expect(reading, key, grid, (-(-k // group), n)) for grid in grids):
        return
    tensors = {"weight": qdata.name, "scale": scale.name, "zeros": zeros.name}
    columns = reading.source.tensors.get(weight.tensor("act_pre_scale"))
    if columns is not None:
        tensors["columns"] = columns.name
    moved = not all_zero(reading.source, zeros)
    same = columns is None and (not moved or zeros.dtype == scale.dtype)
    settings = {
        **grouping(4, group, k, scale),
        "centered": same,
        **({"offset": True} if moved else {}),
    }
    dtype = scale.dtype if scale.dtype in HALVES else reading.dtype
    coded(reading, key, shape, "torchao_int4", tensors, settings, dtype)


def list_weight(reading: Reading, weight: Stored) -> None:
    """List one weight by its type; a type that is not read is refused by its name."""
    if weight.type not in TYPES:
        known = weight.type.isidentifier() and len(weight.type) <= LONGEST_TYPE
        kind = weight.type.removesuffix("Tensor").lower() if known else "unknown"
        told = f"a weight as torchao's {weight.type[:LONGEST_TYPE]}"
        raise unread(f"torchao-{kind}", told, name_of(weight.key))
    found = needed(reading, weight.key, *map(weight.tensor, TYPES[weight.type]))
    tensors = reading.source.tensors
    for role in ACTIVATIONS:
        name = weight.tensor(role)
        if name in tensors:
            reading.used.add(name)
            reading.tell("activation-scales-unread", name, name_of(weight.key))
    if not found:
        return
    if weight.type == "Int4Tensor":
        int4(reading, weight, *found)
        return
    qdata, scale = found[:2]
    wide = weight.dtype("target_dtype") or ""
    bits = int(wide.removeprefix("int")) if wide.removeprefix("int").isdigit() else 8
    eight_bits(
        reading, weight.key, qdata, scale,
        zeros=tensors.get(weight.tensor("zero_point")),
        columns=tensors.get(weight.tensor("act_pre_scale")),
        dtype=DTYPE_NAMES.get(weight.dtype("dtype") or ""),
        weight_only=not weight.facts.get("act_quant_kwargs"),
        bits=bits,
    )  # fmt: skip


def split(source: Source) -> Contents:
    """Quantized weights by the header's types, the rest as it is."""
    weights = stored(source)
    if any(name.endswith(EARLIER) for name in source.tensors):
        raise unread("torchao-earlier", f"torchao's earlier spelling, P.{EARLIER}")
    if weights is None:
        raise unread("torchao", "torchao tensors without the header's JSON of their types")
    reading = Reading(source)
    for weight in weights:
        list_weight(reading, weight)
    for name in source.tensors:
        if name.endswith(CODES) and name not in reading.used:
            reading.tell("state-unread", f"{name}, of which the header says nothing")
    return reading.contents("torchao")


FORMAT = Format("torchao", "torchao checkpoint", detected(signs), split)
