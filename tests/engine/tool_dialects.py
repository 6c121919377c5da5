"""Tiny checkpoints as other tools write them: names, header, numbers, where they can live."""

from __future__ import annotations

import json
from typing import NamedTuple

import torch

from .coded_tools import CODED, E5M2, FNUZ
from .dialects import BIAS, E4M3, NAME, Tensors, blocks, fp8, int8, rows, spread

ONE = torch.ones(())
BF16 = torch.bfloat16


class Tool(NamedTuple):
    """A file, its dialect, the scheme or codec of its layer, its numbers and their home."""

    tensors: Tensors
    dialect: str
    scheme: str
    numbers: torch.Tensor
    home: str
    metadata: dict[str, str] = {}  # noqa: RUF012


def named(roles: Tensors, **names: str) -> Tensors:
    """The tensors of some roles under the layer's name, with a bias."""
    return {f"{NAME}.{names[role]}": tensor for role, tensor in roles.items()} | BIAS


def coded(
    entry: str, dialect: str, home: str, metadata: dict[str, str] | None = None, **names: str
) -> Tool:
    """A file of a codec's stored weight; `names` maps roles to what the tool calls them."""
    tensors, _, numbers = CODED[entry]
    return Tool(
        named({role: tensors[role] for role in names}, **names), dialect, entry.split(":")[0],
        numbers.float(), home, metadata or {},
    )  # fmt: skip


# --- optimum-quanto --------------------------------------------------------------------------


def quanto(codes: torch.Tensor, scale: torch.Tensor, scheme: str, home: str | None = None) -> Tool:
    roles = {"weight": codes, "scale": scale, "input": ONE.to(BF16), "output": ONE.to(BF16)}
    tensors = named(
        roles, weight="weight._data", scale="weight._scale", input="input_scale",
        output="output_scale",
    )  # fmt: skip
    return Tool(tensors, "quanto", scheme, codes.float() * scale.float(), home or scheme)


BITS = {"weight": "weight._data._data", "scale": "weight._scale", "shift": "weight._shift"}
QUANTO = {
    "quanto-qint8": quanto(int8(), rows(BF16), "int8_weight_only"),
    "quanto-qint8-tensor": quanto(int8(), torch.tensor(0.5), "int8_weight_only"),
    "quanto-qfloat8": quanto(fp8(), rows(BF16), "fp8_row"),
    "quanto-qfloat8-tensor": quanto(fp8(), torch.tensor(0.5), "fp8"),
    "quanto-e5m2": quanto(fp8().float().to(E5M2), rows(), "scaled_blocks", "none"),
    "quanto-fnuz": quanto(fp8().float().to(FNUZ), rows(), "scaled_blocks", "none"),
    "quanto-qint4": coded("quanto_bits", "quanto", "none", **BITS),
    "quanto-qint2": coded("quanto_bits:2", "quanto", "none", **BITS),
    "quanto-qint4-whole-shift": coded("quanto_bits:whole", "quanto", "none", **BITS),
}

# --- torchao ---------------------------------------------------------------------------------


def torchao_header(kind: str, names: tuple[str, ...], **facts: object) -> dict[str, str]:
    """The header's metadata for one weight and its bias."""
    weight = {"_type": kind, "_data": facts, "_tensor_data_names": list(names)}
    keys = [f"{NAME}.weight", f"{NAME}.bias"]
    plain = {"_type": "Tensor"}
    return {
        keys[0]: json.dumps(weight), keys[1]: json.dumps(plain), "tensor_names": json.dumps(keys),
        "format": "pt",
    }  # fmt: skip


def dtype(name: str) -> dict[str, str]:
    return {"_type": "torch.dtype", "_data": name}


def torchao(
    kind: str, scheme: str, numbers: torch.Tensor, home: str, roles: Tensors, **facts: object
) -> Tool:
    names = {role: f"_weight_{role}" for role in roles}
    header = torchao_header(kind, tuple(roles), dtype=dtype("bfloat16"), **facts)
    return Tool(named(roles, **names), "torchao", scheme, numbers, home, header)


def torchao_coded(entry: str, kind: str, home: str, **facts: object) -> Tool:
    """A file of a codec's stored weight under torchao's names."""
    tensors, _, numbers = CODED[entry]
    names = {"weight": "qdata", "scale": "scale", "zeros": "zero_point"}
    roles = {names[role]: tensor for role, tensor in tensors.items()}
    roles.setdefault("zero_point", torch.zeros_like(tensors["scale"], dtype=torch.int8))
    return torchao(kind, entry.split(":")[0], numbers.float(), home, roles, **facts)


QDATA8 = {"qdata": int8(), "scale": rows()}
NO_ZEROS = {"zero_point": torch.zeros(192, 1, dtype=torch.int8)}
DYNAMIC = {"act_quant_kwargs": {"_type": "QuantizeTensorToInt8Kwargs", "_data": {}}}
FACTOR = torch.linspace(0.5, 2, 256)
INT4 = {"block_size": [1, 128], "shape": [192, 256], "activation_dtype": dtype("bfloat16")}
INTX4 = {"target_dtype": dtype("int4"), "block_size": [1, 128]}
TORCHAO = {
    "torchao-int8": torchao(
        "Int8Tensor", "int8_weight_only", int8() * rows(), "int8_weight_only", QDATA8 | NO_ZEROS,
        act_quant_kwargs=None,
    ),
    "torchao-int8-dynamic": torchao(
        "Int8Tensor", "int8", int8() * rows(), "int8", QDATA8, **DYNAMIC
    ),
    "torchao-int8-zero-points": torchao_coded("scaled_blocks:zeros", "Int8Tensor", "none"),
    "torchao-int8-factors": torchao(
        "Int8Tensor", "scaled_blocks", int8() * rows() * FACTOR, "none",
        QDATA8 | {"act_pre_scale": FACTOR},
    ),
    "torchao-float8": torchao(
        "Float8Tensor", "fp8_row", fp8().float() * rows(), "fp8_row",
        {"qdata": fp8(), "scale": rows()},
    ),
    "torchao-float8-tensor": torchao(
        "Float8Tensor", "fp8", fp8().float() / 2, "fp8",
        {"qdata": fp8(), "scale": torch.full((1, 1), 0.5)},
    ),
    "torchao-float8-tiles": torchao(
        "Float8Tensor", "fp8_block128", fp8().float() * spread(blocks()), "fp8_block128",
        {"qdata": fp8(), "scale": blocks()},
    ),
    "torchao-float8-e5m2": torchao_coded("scaled_blocks:e5m2", "Float8Tensor", "none"),
    "torchao-intx4": torchao_coded(
        "scaled_blocks", "IntxUnpackedToInt8Tensor", "int4_g128", **INTX4
    ),
    "torchao-int4": torchao_coded("torchao_int4", "Int4Tensor", "int4_g128", **INT4),
    "torchao-int4-zeros": torchao_coded("torchao_int4:zeros", "Int4Tensor", "int4_g128", **INT4),
}  # fmt: skip

# --- bitsandbytes ----------------------------------------------------------------------------


def state(**changes: object) -> torch.Tensor:
    """The JSON beside a 4-bit weight, as bytes."""
    facts = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [192, 256]}
    return torch.tensor(list(json.dumps(facts | changes).encode()), dtype=torch.uint8)


NESTED = {"nested_blocksize": 4, "nested_dtype": "float32", "nested_offset": 1.5}
STATE = f"{NAME}.weight.quant_state.bitsandbytes__nf4"
FOUR = {"weight": "weight", "absmax": "weight.absmax", "map": "weight.quant_map"}
INNER = {"nested_absmax": "weight.nested_absmax", "nested_map": "weight.nested_quant_map"}
LAYOUT = {f"{NAME}.weight_format": torch.tensor(0, dtype=torch.uint8)}


def four_bits(entry: str, stored: torch.Tensor, **names: str) -> Tool:
    tool = coded(entry, "bitsandbytes", "none", **names)
    return tool._replace(tensors=tool.tensors | {STATE: stored})


def wide_storage(tool: Tool) -> Tool:
    """The same bytes stored as bfloat16, as a sharded training saves them."""
    packed = tool.tensors[f"{NAME}.weight"].view(BF16)
    return tool._replace(tensors=tool.tensors | {f"{NAME}.weight": packed})


ROWS8 = coded("bitsandbytes_int8", "bitsandbytes", "int8_weight_only", weight="weight", scale="SCB")
NF4 = four_bits("bitsandbytes_4bit", state(), **FOUR)
BITSANDBYTES = {
    "bitsandbytes-int8": ROWS8._replace(tensors=ROWS8.tensors | LAYOUT),
    "bitsandbytes-int8-older": ROWS8,
    "bitsandbytes-nf4": NF4,
    "bitsandbytes-nf4-nested": four_bits(
        "bitsandbytes_4bit:nested", state(**NESTED), **FOUR, **INNER
    ),
    "bitsandbytes-nf4-storage": wide_storage(NF4._replace(tensors={
        name: x.reshape(-1, 2) if x.dtype == torch.uint8 and x.dim() == 2 else x
        for name, x in NF4.tensors.items()
    })),
}  # fmt: skip

# --- Marlin, GPTQ, compressed-tensors ----------------------------------------------------------

WORKSPACE = {f"{NAME}.weight_workspace": torch.zeros(24, dtype=torch.int32)}
LIGHTX2V = {"weight": "weight", "scale": "weight_scale"}
PACKED = {"weight": "weight_packed", "scale": "weight_scale"}
SHAPE = {f"{NAME}.weight_shape": torch.tensor([192, 256])}
GPTQ = {"weight": "qweight", "scale": "scales", "zeros": "qzeros"}


def with_tensors(tool: Tool, more: Tensors) -> Tool:
    return tool._replace(tensors=tool.tensors | more)


def gptq(entry: str, group: int, home: str, version: str | None = None) -> Tool:
    order = {f"{NAME}.g_idx": (torch.arange(256) // group).to(torch.int32)}
    header = {"gptq_checkpoint_format": version} if version else None
    return with_tensors(coded(entry, "gptq", home, header, **GPTQ), order)


def packed(entry: str, home: str, **more: str) -> Tool:
    return with_tensors(coded(entry, "compressed_tensors", home, **PACKED, **more), SHAPE)


ZEROS = {"zeros": "weight_zero_point"}
PACKED_TOOLS = {
    "marlin": with_tensors(coded("marlin_int4", "marlin", "int4_g128", **LIGHTX2V), WORKSPACE),
    "marlin-one-group": coded("marlin_int4:one", "marlin", "int4_g128", **LIGHTX2V),
    "marlin-autogptq": coded("marlin_int4", "marlin", "int4_g128", weight="B", scale="s"),
    "gptq": gptq("gptq", 128, "int4_g128"),
    "gptq-8": gptq("gptq:8", 256, "int8_weight_only"),
    "gptq-without-g_idx": coded("gptq", "gptq", "int4_g128", **GPTQ),
    "gptq-zero-points": gptq("gptq:less-one", 64, "none", "gptq"),
    "gptq-version-2": gptq("gptq:as-is", 128, "none", "gptq_v2"),
    "compressed-tensors": packed("packed_int32", "int4_g128"),
    "compressed-tensors-zero-points": packed("packed_int32:zeros", "none", **ZEROS),
    "compressed-tensors-bytes": packed("packed_int32:bytes", "none", **ZEROS),
    "compressed-tensors-8": packed("packed_int32:8", "int8_weight_only"),
    "compressed-tensors-unpacked": coded(
        "scaled_blocks:zeros", "compressed_tensors", "none", weight="weight", scale="weight_scale",
        **ZEROS,
    ),
}  # fmt: skip

TOOLS: dict[str, Tool] = {**QUANTO, **TORCHAO, **BITSANDBYTES, **PACKED_TOOLS}
__all__ = ["E4M3", "NAME", "TOOLS", "Tool"]
