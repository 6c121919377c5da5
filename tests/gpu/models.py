"""A model of cases.py in, a ComfyUI patcher of it with random weights out; no file is read.

Weights are made on the device, layer by layer, with a few loud rows and columns as real ones have.
Quantized models are quantized as they are made, so that 20 billion weights never exist in 16 bits.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.sd
import comfy.utils
import torch

from fusequant.engine.choose import choose
from fusequant.engine.model import recognise
from fusequant.engine.read import read
from fusequant.engine.specs import Spec, spec
from fusequant.engine.tensors import TensorSpec
from fusequant.host.choosing import exact_scheme
from fusequant.host.model import keep_in_memory, quantizing_device
from fusequant.host.ops import quantized_operations
from fusequant.host.quantize import layer_tensors

from .cases import Model

LOUD_SHARE, LOUD_COLUMNS, LOUD_ROWS = 0.01, 6.0, 4.0
# name part: factor over 1/sqrt(inputs); the last layer is quiet, so that the output stays small
GAINS = (("final_layer.linear", 0.3), ("head.head", 0.3), ("proj_out", 0.3))
EDIT_MARK = "__index_timestep_zero__"  # what tells core Qwen-Image-Edit from Qwen-Image
LORA_RANK, LORA_GAIN = 8, 0.3


@dataclass(frozen=True)
class Build:
    """What a patcher was built from. `scheme` None: bfloat16."""

    model: Model
    scheme: str | None = None


def header(model: Model) -> Spec:
    """The names and shapes of a model: a spec, cut to its blocks and sizes."""
    whole = spec(model.spec)
    tensors = {}
    for name, found in whole.tensors.items():
        parts = name.split(".")
        if name != EDIT_MARK and (len(parts) < 2 or _kept(model, parts[0], parts[1])):
            shape = tuple(model.sizes.get(size, size) for size in found.shape)
            tensors[name] = TensorSpec(name, found.dtype, shape)
    fields = {name: getattr(whole, name) for name in whole.__dataclass_fields__}
    return Spec(**{**fields, "tensors": tensors})


def _kept(model: Model, blocks: str, index: str) -> bool:
    return not index.isdigit() or int(index) < model.blocks.get(blocks, 1 << 30)


def numbers(name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """A parameter in bfloat16 on `device`: a name always gives the same numbers there."""
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))

    def noise() -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device)

    if name.endswith("modulation"):
        values = noise() * 0.3
    elif len(shape) == 1 and name.endswith((".weight", ".scale")):
        values = noise() * 0.1 + 1.0
    elif len(shape) == 1:
        values = noise() * 0.05
    else:
        gain = next((factor for part, factor in GAINS if part in name), 1.0)
        values = noise().mul_(gain / math.sqrt(math.prod(shape[1:])))
        if len(shape) == 2 and min(shape) >= 64:
            _make_loud(values, generator)
    return values.to(torch.bfloat16)


def _make_loud(weight: torch.Tensor, generator: torch.Generator) -> None:
    """One column and one row of a hundred are larger, as in trained networks."""
    for dim, factor in ((1, LOUD_COLUMNS), (0, LOUD_ROWS)):
        count = max(1, round(weight.shape[dim] * LOUD_SHARE))
        order = torch.randperm(weight.shape[dim], generator=generator, device=weight.device)
        loud = order[:count]
        weight.index_copy_(dim, loud, weight.index_select(dim, loud) * factor)


def build(wanted: Build, disable_dynamic: bool = False) -> Any:
    """The patcher of a build; also what ComfyUI calls for a fresh copy of it."""
    device = comfy.model_management.get_torch_device()
    source = header(wanted.model)
    names = _quantized_names(source, wanted.scheme)
    making, state = quantizing_device(device), {}
    for name, found in source.tensors.items():
        if name.removesuffix(".weight") in names and name.endswith(".weight"):
            state[name] = torch.empty(found.shape, dtype=torch.bfloat16, device="meta")
        else:
            state[name] = numbers(name, found.shape, making).cpu()
    options = _options(state, device, wanted.scheme, names)
    patcher = comfy.sd.load_diffusion_model_state_dict(
        state, options, disable_dynamic=disable_dynamic
    )
    if patcher is None:
        raise RuntimeError(f"ComfyUI does not know {wanted.model.name}")
    keep_in_memory(patcher)
    patcher.cached_patcher_init = (build, (wanted,))
    return patcher


def _quantized_names(source: Spec, scheme: str | None) -> set[str]:
    if scheme is None:
        return set()
    exact = exact_scheme(scheme, comfy.model_management.get_torch_device())[0]
    choices = choose(recognise(read(source)), exact)
    return {choice.layer.name for choice in choices if choice.scheme != "none"}


def _options(
    state: dict[str, torch.Tensor], device: torch.device, scheme: str | None, names: set[str]
) -> dict[str, Any]:
    """What ComfyUI's loader is told: its own choice of dtypes, our operations if quantized."""
    if scheme is None:
        return {}
    management = comfy.model_management
    config = comfy.model_detection.model_config_from_unet(dict(state), "")
    supported = list(config.supported_inference_dtypes)
    dtype = management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state),
        supported_dtypes=supported,
        weight_dtype=torch.bfloat16,
    )
    dtype = torch.bfloat16 if dtype == torch.float32 else dtype
    compute = management.unet_manual_cast(dtype, device, supported) or dtype
    exact, making = exact_scheme(scheme, device)[0], quantizing_device(device)

    def rewrite(layer: dict[str, Any], prefix: str) -> None:
        name, weight = prefix.removesuffix("."), layer.get(prefix + "weight")
        if name in names and weight is not None:
            made = numbers(prefix + "weight", tuple(weight.shape), making)
            tensors = layer_tensors(name, exact, made, making)
            layer |= {prefix + key: tensor.cpu() for key, tensor in tensors.items()}

    return {
        "dtype": dtype,
        "custom_operations": quantized_operations(compute, device, rewrite=rewrite),
    }


def with_lora(patcher: Any, strength: float = 1.0) -> Any:
    """The patcher with a random LoRA on every matrix of its blocks, as ComfyUI's loader adds it."""
    state = {}
    for name, module in patcher.model.diffusion_model.named_modules():
        if not (hasattr(module, "in_features") and "blocks." in name):
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        down = torch.randn(LORA_RANK, module.in_features, generator=generator)
        up = torch.randn(module.out_features, LORA_RANK, generator=generator)
        at = f"diffusion_model.{name}"
        state[f"{at}.lora_A.weight"] = down / math.sqrt(module.in_features)
        state[f"{at}.lora_B.weight"] = up * LORA_GAIN / math.sqrt(LORA_RANK)
    return comfy.sd.load_lora_for_models(patcher, None, state, strength, 0.0)[0]


def weight_bytes(patcher: Any) -> dict[str, int]:
    """Bytes of every layer of a patcher as it is held, by module name."""
    sizes: dict[str, int] = {}
    for key, tensor in patcher.model.diffusion_model.state_dict().items():
        at = key.rpartition(".")[0]
        sizes[at] = sizes.get(at, 0) + tensor.nbytes
    return sizes
