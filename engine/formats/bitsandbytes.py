"""bitsandbytes files: int8 rows (`SCB`), or nf4 and fp4 blocks (`absmax`, `quant_state`)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from ..format import Contents, Format
from ..source import Source
from ..tensors import TensorSpec
from ._foreign import detected, unread
from ._layers import Reading
from ._names import QUANT_STATE
from ._stored import check_finite, check_scales, coded, expect, name_of, needed

MAX_STATE_BYTES = 1 << 16
BESIDE = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map")
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
# what a stored `weight_format` of int8 rows means
LAYOUTS = {0: "row", 1: "col32", 2: "col_turing", 3: "col_ampere"}


def signs(source: Source) -> bool:
    """State tensors beside the weight."""
    return any(
        name.endswith((".SCB", ".weight_format", ".weight.absmax", ".weight.quant_map"))
        or QUANT_STATE in name
        for name in source.tensors
    )


@dataclass(frozen=True)
class State:
    """The JSON of a weight: shape, elements of a block, dtype; `nested` blocks share a scale."""

    shape: tuple[int, int]
    block: int
    dtype: str
    nested: int
    offset: float


def state_of(source: Source, spec: TensorSpec) -> State | None:
    """The JSON that a state tensor holds; None where it is damaged or lacks something."""
    if spec.dtype not in ("U8", "I8") or spec.size_bytes > MAX_STATE_BYTES:
        return None
    try:
        found = json.loads(source.read_bytes(spec.name))
        n, k = (int(side) for side in found["shape"])
        state = State(
            (n, k),
            int(found["blocksize"]),
            DTYPES[found["dtype"]],
            int(found.get("nested_blocksize") or 0),
            float(found.get("nested_offset") or 0),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = min(n, k, state.block) > 0 and state.nested >= 0 and math.isfinite(state.offset)
    return state if sound else None


def four_bits(reading: Reading, key: str, spec: TensorSpec) -> None:
    """List a weight of two codes a byte in blocks of elements."""
    reading.used.add(spec.name)
    found = needed(reading, key, key, f"{key}.absmax", f"{key}.quant_map")
    state = state_of(reading.source, spec)
    if state is None:
        reading.tell("state-unread", f"{spec.name} of {spec.size_bytes} bytes", name_of(key))
    if state is None or not found:
        return
    weight, absmax, table = found
    (n, k), blocks = state.shape, -(-state.shape[0] * state.shape[1] // state.block)
    if weight.size_bytes != -(-n * k // 2):
        text = f"{weight.dtype} {list(weight.shape)} for a weight {list(state.shape)} of 4 bits"
        reading.tell("codes-shape", text, name_of(key))
    tensors = {"weight": weight.name, "absmax": absmax.name, "map": table.name}
    fits = [expect(reading, key, absmax, (blocks,)), expect(reading, key, table, (16,))]
    scales = [absmax, table]
    if state.nested:
        beside = needed(reading, key, f"{key}.nested_absmax", f"{key}.nested_quant_map")
        if not beside:
            return
        outer, values = beside
        fits.append(expect(reading, key, outer, (-(-blocks // state.nested),)))
        fits.append(expect(reading, key, values, (256,)))
        tensors |= {"nested_absmax": outer.name, "nested_map": values.name}
        scales = [table, outer, values]
    if all(fits):
        check_finite(reading, key, *scales)
    settings = {
        "inputs": k, "block": state.block, "nested": state.nested, "offset": state.offset,
    }  # fmt: skip
    coded(reading, key, state.shape, "bitsandbytes_4bit", tensors, settings, state.dtype)


def int8_rows(reading: Reading, name: str) -> None:
    """List int8 codes with the largest magnitude of each row."""
    module, key = reading.modules[name], f"{name}.weight"
    found = needed(reading, key, key, f"{name}.SCB")
    layout = module.get("weight_format")
    if layout is not None:
        reading.used.add(layout.name)
        number = reading.source.read_bytes(layout.name, 0, 1)
        kind = LAYOUTS.get(number[0] if number else 0, "unknown")
        if kind != "row":
            raise unread(f"bitsandbytes-{kind}", f"int8 codes in the order {kind}", name)
    if not found:
        return
    weight, scale = found
    if weight.dtype != "I8" or len(weight.shape) != 2:
        reading.tell("codes-shape", f"{weight.dtype} {list(weight.shape)} beside SCB", name)
        return
    if scale.elements != weight.shape[0]:
        expect(reading, key, scale, weight.shape[:1])
    check_scales(reading, key, scale)
    tensors = {"weight": weight.name, "scale": scale.name}
    coded(reading, key, weight.shape, "bitsandbytes_int8", tensors, {}, reading.dtype)


def split(source: Source) -> Contents:
    """Quantized weights by the tensors beside them, the rest as it is."""
    reading = Reading(source)
    for name, spec in source.tensors.items():
        key, mark, _ = name.partition(QUANT_STATE)
        if mark:
            four_bits(reading, key, spec)
    for name, module in reading.modules.items():
        if "SCB" in module or "weight_format" in module:
            int8_rows(reading, name)
    for name in source.tensors:
        owner = next((name.removesuffix(end) for end in BESIDE if name.endswith(end)), "")
        if owner in source.tensors and name not in reading.used:
            reading.used.add(name)
            reading.tell("codes-without-scale", f"{name} without its quant_state", name_of(owner))
    return reading.contents("bitsandbytes")


FORMAT = Format("bitsandbytes", "bitsandbytes checkpoint", detected(signs), split)
