"""A MODEL and the name of a parameter in, the numbers that it multiplies with out, in float32.

What another clone's LoRA has written into the shared module just now is not looked at: where the
host holds a backup of a parameter, the backup is the model's own.
"""

from __future__ import annotations

from typing import Any

import comfy.float
import comfy.utils
import torch
from comfy_kitchen.tensor import QuantizedTensor

from .weights import dequantized, is_linear, summed

Patches = dict[str, list[Any]]


def linear_weights(patcher: Any) -> dict[str, tuple[int, ...]]:
    """{parameter key: logical shape} of every Linear of the model that holds numbers."""
    return {
        f"{name}.weight": tuple(module.weight.shape)
        for name, module in patcher.model.named_modules()
        if is_linear(module)
        and module.weight is not None
        and not module.weight.is_meta
        and module.weight.dim() == 2
    }


def unpatched(patcher: Any, key: str) -> torch.Tensor:
    """A parameter as it is without any patch of the host, quantized or not."""
    if key in patcher.hook_backup:
        found: torch.Tensor = patcher.hook_backup[key][0]
        return found
    if key in patcher.backup:
        found = patcher.backup[key].weight
        return found
    found = comfy.utils.get_attr(patcher.model, key)
    return found.detach()


def ideal(patcher: Any, key: str, patches: Patches, device: torch.device) -> torch.Tensor:
    """(n, k) float32: the parameter with `patches` summed in float32 and rounded nowhere."""
    values = dequantized(unpatched(patcher, key)).to(device, torch.float32, copy=True)
    return summed(values, patches[key], key) if key in patches else values


def effective(patcher: Any, key: str, device: torch.device) -> torch.Tensor:
    """(n, k) float32: what the model multiplies with, its patches rounded as the host does it."""
    held = unpatched(patcher, key)
    values = dequantized(held).to(device, torch.float32, copy=True)
    if key not in patcher.patches:
        return values
    values = summed(values, patcher.patches[key], key)
    seed = comfy.utils.string_to_seed(key)
    if isinstance(held, QuantizedTensor):
        again = held.to(device).requantize_from_float(
            values, scale="recalculate", stochastic_rounding=seed, inplace_ops=True
        )
        return dequantized(again).to(torch.float32)
    rounded: torch.Tensor = comfy.float.stochastic_rounding(values, held.dtype, seed=seed)
    return rounded.to(torch.float32)
