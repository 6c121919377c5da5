"""A model's state in, the file that a tool would save of it and the numbers in it out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from fusequant.engine.families.flux import FAMILY

from .coded_tools import NF4, high_first, marlin_scales, marlin_words, quanto_bytes, words

Tensors = dict[str, torch.Tensor]
# (tensors by what follows the module's name, the numbers that they mean)
Stored = tuple[Tensors, torch.Tensor]
GROUP = 128
ONLY_IN_LORAS = re.compile(
    r"\.ff(_context)?\.linear_|to_qkv_mlp_proj|single_\w+\.\d+\.attn\.to_out|_qkv$"
)


def as_diffusers(state: Tensors) -> Tensors:
    """A FLUX under core's names in those of Diffusers: q, k, v apart, two halves swapped."""
    found: Tensors = {}
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    for name, target in FAMILY.aliases(shapes).items():
        module = target.key.rpartition(".")[0]
        if ONLY_IN_LORAS.search(name):
            continue
        for key in (target.key, f"{module}.bias"):
            if key not in state:
                continue
            tensor = state[key][slice(*target.rows)] if target.rows else state[key]
            if target.halves_swapped:
                tensor = torch.cat(tensor.chunk(2)[::-1])
            end = "weight" if key == target.key else "bias"
            found[f"{name}.{end}"] = tensor.contiguous()
    return found


def rows_of_eight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-6) / 127
    return (weight / scale).round().to(torch.int8), scale


def groups_of_four(
    weight: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes 0..15, scales (n, groups) of a dtype, (code - 8) * scale."""
    runs = weight.reshape(len(weight), -1, GROUP)
    scale = (runs.abs().amax(-1) * 2 / 15).clamp_min(1e-4).to(dtype)
    found = (runs / scale.float()[..., None]).round().clamp(-8, 7)
    numbers = found * scale.float()[..., None]
    return (found.long() + 8).flatten(1), scale, numbers.reshape(weight.shape)


def quanto_int8(weight: torch.Tensor) -> Stored:
    found, scale = rows_of_eight(weight)
    scale, one = scale.bfloat16(), torch.ones((), dtype=torch.bfloat16)
    tensors = {"weight._data": found, "weight._scale": scale}
    return tensors | {"input_scale": one, "output_scale": one.clone()}, found * scale.float()


def quanto_float8(weight: torch.Tensor) -> Stored:
    scale = (weight.abs().amax(1, keepdim=True).clamp_min(1e-6) / 448).bfloat16()
    found = (weight / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
    return {"weight._data": found, "weight._scale": scale}, found.float() * scale.float()


def quanto_int4(weight: torch.Tensor) -> Stored:
    runs = weight.reshape(-1, GROUP)
    low, high = runs.amin(1, keepdim=True), runs.amax(1, keepdim=True)
    scale, shift = ((high - low) / 15).bfloat16(), -low.bfloat16()
    found = ((runs + shift.float()) / scale.float()).round().clamp(0, 15)
    packed = quanto_bytes(found.long(), 4)
    tensors = {"weight._data._data": packed, "weight._scale": scale, "weight._shift": shift}
    return tensors, (scale.float() * found - shift.float()).reshape(weight.shape)


def torchao_int8(weight: torch.Tensor) -> Stored:
    found, scale = rows_of_eight(weight)
    zeros = torch.zeros_like(scale, dtype=torch.int8)
    tensors = {"_weight_qdata": found, "_weight_scale": scale, "_weight_zero_point": zeros}
    return tensors, found * scale


def torchao_float8(weight: torch.Tensor) -> Stored:
    found, numbers = quanto_float8(weight)
    scale = found["weight._scale"].float()
    return {"_weight_qdata": found["weight._data"], "_weight_scale": scale}, numbers


def torchao_int4(weight: torch.Tensor) -> Stored:
    found, scale, numbers = groups_of_four(weight, torch.bfloat16)
    zeros = torch.zeros_like(scale, dtype=torch.int8)
    qdata = (found - 8).to(torch.int8)
    tensors = {"_weight_qdata": qdata, "_weight_scale": scale, "_weight_zero_point": zeros}
    return tensors, numbers


def bitsandbytes_int8(weight: torch.Tensor) -> Stored:
    found, scale = rows_of_eight(weight)
    largest = scale.flatten() * 127
    tensors = {"weight": found, "SCB": largest, "weight_format": torch.tensor(0).to(torch.uint8)}
    return tensors, found * (largest / 127)[:, None]


def bitsandbytes_nf4(weight: torch.Tensor) -> Stored:
    blocks = weight.reshape(-1, 64)
    absmax = blocks.abs().amax(1).clamp_min(1e-6)
    found = (blocks[..., None] / absmax[:, None, None] - NF4).abs().argmin(-1)
    facts = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16"}
    text = json.dumps({**facts, "shape": list(weight.shape)}).encode()
    tensors = {
        "weight": high_first(found.reshape(-1)), "weight.absmax": absmax, "weight.quant_map": NF4,
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(text), dtype=torch.uint8),
    }  # fmt: skip
    return tensors, (NF4[found] * absmax[:, None]).reshape(weight.shape)


def marlin(weight: torch.Tensor) -> Stored:
    found, scale, numbers = groups_of_four(weight, torch.float16)
    tensors = {"weight": marlin_words(found), "weight_scale": marlin_scales(scale.t())}
    workspace = torch.zeros(len(weight) // 8, dtype=torch.int32)
    return tensors | {"weight_workspace": workspace}, numbers


def gptq(weight: torch.Tensor) -> Stored:
    found, scale, numbers = groups_of_four(weight, torch.float16)
    zeros = torch.full((scale.shape[1], len(weight)), 7)
    order = torch.arange(weight.shape[1], dtype=torch.int32) // GROUP
    tensors = {"qweight": words(found, 4).t(), "qzeros": words(zeros, 4), "scales": scale.t()}
    return tensors | {"g_idx": order}, numbers


def compressed_tensors(weight: torch.Tensor) -> Stored:
    found, scale, numbers = groups_of_four(weight, torch.bfloat16)
    shape = torch.tensor(weight.shape)
    tensors = {"weight_packed": words(found, 4), "weight_scale": scale, "weight_shape": shape}
    return tensors, numbers


SPELL: dict[str, Callable[[torch.Tensor], Stored]] = {
    spell.__name__: spell
    for spell in (
        quanto_int8, quanto_float8, quanto_int4, torchao_int8, torchao_float8, torchao_int4,
        bitsandbytes_int8, bitsandbytes_nf4, marlin, gptq, compressed_tensors,
    )
}  # fmt: skip
# scheme that holds a tool's codes; the others are numbers alone
HOMES = {
    "quanto_int8": "int8_weight_only", "quanto_float8": "fp8_row",
    "torchao_int8": "int8_weight_only", "torchao_float8": "fp8_row", "torchao_int4": "int4_g128",
    "bitsandbytes_int8": "int8_weight_only", "marlin": "int4_g128", "gptq": "int4_g128",
    "compressed_tensors": "int4_g128",
}  # fmt: skip
TORCHAO = {
    "torchao_int8": "Int8Tensor", "torchao_float8": "Float8Tensor",
    "torchao_int4": "IntxUnpackedToInt8Tensor",
}  # fmt: skip


def header(tool: str, keys: list[str], quantized: set[str]) -> dict[str, str]:
    """The header's metadata: torchao says of every tensor what it is."""
    if tool not in TORCHAO:
        return {"format": "pt"}
    facts = {
        "target_dtype": {"_type": "torch.dtype", "_data": "int4"} if "int4" in tool else None,
        "dtype": {"_type": "torch.dtype", "_data": "bfloat16"},
    }
    weight, plain = json.dumps({"_type": TORCHAO[tool], "_data": facts}), '{"_type": "Tensor"}'
    rows = {key: weight if key in quantized else plain for key in keys}
    return {"format": "pt", "tensor_names": json.dumps(keys), **rows}


def spelled(tool: str, state: Tensors) -> tuple[Tensors, Tensors, dict[str, str]]:
    """(tensors, numbers by key, metadata): the block matrices of a state as a tool stores them."""
    tensors: Tensors = {}
    means: Tensors = {}
    for key, tensor in state.items():
        if tensor.dim() != 2 or "blocks." not in key:
            tensors[key] = tensor
            continue
        module = key.removesuffix(".weight")
        stored, means[key] = SPELL[tool](tensor.float())
        tensors |= {f"{module}.{end}": x.clone().contiguous() for end, x in stored.items()}
    return tensors, means, header(tool, list(state), set(means))


def save(tool: str, state: Tensors, path: Path) -> Tensors:
    """Write the file and return the numbers of its quantized layers."""
    tensors, means, metadata = spelled(tool, state)
    save_file({name: x.clone().contiguous() for name, x in tensors.items()}, path, metadata)
    return means


def save_folder(tool: str, state: Tensors, folder: Path) -> Tensors:
    """Write a Diffusers folder in two shards, with its config, and return the numbers."""
    folder.mkdir(parents=True)
    tensors, means, metadata = spelled(tool, state)
    names, stem = sorted(tensors), "diffusion_pytorch_model"
    shards = {f"{stem}-0000{at + 1}-of-00002.safetensors": names[at::2] for at in range(2)}
    for shard, inside in shards.items():
        save_file({x: tensors[x].clone().contiguous() for x in inside}, folder / shard, metadata)
    places = {name: shard for shard, inside in shards.items() for name in inside}
    index = {"metadata": {}, "weight_map": places}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    method = {"quant_method": tool.partition("_")[0]}
    config = {"_class_name": "FluxTransformer2DModel", "quantization_config": method}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "quanto_qmap.json").write_text("{}")
    return means
