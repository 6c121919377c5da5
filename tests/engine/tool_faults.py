"""Faults in files of other tools: {kind: [(a file that has the fault, its healthy sibling)]}."""

from __future__ import annotations

import math

import torch

from .dialects import Tensors
from .tool_dialects import NAME, STATE, TOOLS, state

Pair = tuple[Tensors, Tensors]


def broken(name: str, without: tuple[str, ...] = (), **changed: torch.Tensor) -> Pair:
    """(a tool's file without some tensors of the layer and with others changed, the file)."""
    healthy = TOOLS[name].tensors
    sick = {key: x for key, x in healthy.items() if key.removeprefix(f"{NAME}.") not in without}
    return sick | {f"{NAME}.{leaf}": tensor for leaf, tensor in changed.items()}, healthy


def at(name: str, leaf: str) -> torch.Tensor:
    return TOOLS[name].tensors[f"{NAME}.{leaf}"]


def with_nan(name: str, leaf: str) -> Pair:
    tensor = at(name, leaf).clone()
    tensor.reshape(-1)[7] = math.nan
    return broken(name, **{leaf: tensor})


def short(name: str, leaf: str) -> Pair:
    return broken(name, **{leaf: at(name, leaf)[:-1]})


def odd_state(name: str, stored: torch.Tensor) -> Pair:
    return broken(name, **{STATE.removeprefix(f"{NAME}."): stored})


NF4, NESTED, INT8 = "bitsandbytes-nf4", "bitsandbytes-nf4-nested", "bitsandbytes-int8"
QINT8, QINT4, PACKED = "quanto-qint8", "quanto-qint4", "compressed-tensors"
FAULTS: dict[str, list[Pair]] = {
    "codes-without-scale": [
        broken(QINT8, ("weight._scale",)),
        broken(QINT4, ("weight._scale",)),
        broken(QINT4, ("weight._shift",)),
        broken(NF4, ("weight.absmax",)),
        broken(NF4, ("weight.quant_map",)),
        broken(NF4, (STATE.removeprefix(f"{NAME}."),)),
        broken(NESTED, ("weight.nested_absmax",)),
        broken(INT8, ("SCB",)),
        broken("marlin", ("weight_scale",)),
        broken("gptq", ("scales",)),
        broken(PACKED, ("weight_scale",)),
        broken(PACKED, ("weight_shape",)),
    ],
    "state-unread": [
        odd_state(NF4, state()[:-9]),
        odd_state(NF4, torch.zeros(80, dtype=torch.uint8)),
        odd_state(NF4, state(shape=[192])),
        odd_state(NF4, state(shape=[-192, -256])),
        odd_state(NF4, state(blocksize=0)),
        odd_state(NF4, state(dtype="complex64")),
        odd_state(NESTED, state(nested_blocksize=4, nested_offset=math.nan)),
        odd_state(NF4, torch.tensor(list(b"[" * 100_000), dtype=torch.uint8)),
        broken(PACKED, weight_shape=torch.tensor([192])),
        broken(PACKED, weight_shape=torch.tensor([192, -1])),
    ],
    "rows-unknown": [
        broken(QINT4, ("bias",)), broken(QINT4, bias=torch.zeros(191)),
    ],
    "zero-points-unknown": [
        (TOOLS["gptq-zero-points"].tensors, TOOLS["gptq"].tensors),
    ],
    "activation-scales-unread": [broken(QINT8, input_scale=torch.tensor(0.02))],
    "orphan-scale": [
        (TOOLS[QINT8].tensors | {"b.weight._scale": torch.ones(4, 1)}, TOOLS[QINT8].tensors)
    ],
    "scale-shape": [
        broken(QINT8, **{"weight._scale": torch.ones(191, 1)}),
        short(NF4, "weight.absmax"),
        short(NF4, "weight.quant_map"),
        short(NESTED, "weight.nested_absmax"),
        short(INT8, "SCB"),
        short("compressed-tensors-zero-points", "weight_zero_point"),
        broken("compressed-tensors-unpacked", weight_scale=torch.ones(5, 3)),
    ],
    "codes-shape": [
        short(QINT4, "weight._data._data"),
        broken(QINT8, **{"weight._data": torch.ones(192, 256, dtype=torch.int16)}),
        short(NF4, "weight"),
        odd_state(NF4, state(shape=[256, 256])),
        broken(INT8, weight=torch.ones(192, 256, dtype=torch.bfloat16)),
        short("marlin", "weight"),
        broken("marlin", weight_scale=torch.ones(4, 192).half()),
        short("gptq-without-g_idx", "qweight"),
        broken("gptq-without-g_idx", qzeros=torch.zeros(3, 24, dtype=torch.int32)),
        broken("gptq-without-g_idx", scales=torch.ones(2, 190).half()),
        broken(PACKED, weight_shape=torch.tensor([192, 300])),
    ],
    "scale-not-finite": [
        with_nan(QINT8, "weight._scale"),
        with_nan(QINT4, "weight._shift"),
        with_nan(NESTED, "weight.nested_absmax"),
        with_nan(INT8, "SCB"),
        with_nan("marlin", "weight_scale"),
        with_nan("gptq", "scales"),
        with_nan(PACKED, "weight_scale"),
    ],
    "scale-dtype": [broken(NF4, **{"weight.absmax": at(NESTED, "weight.absmax").repeat(1)})],
}  # fmt: skip
