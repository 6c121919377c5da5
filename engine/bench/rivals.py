"""A weight in, the same product by the other ways that users have out; who is not here is told.

ComfyUI's path is comfy-kitchen's tensors as its loader makes them, multiplied by F.linear under
inference_mode. torchao and quanto quantize an nn.Linear by their own documented call.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling
from torch import nn

Run = Callable[[torch.Tensor], torch.Tensor]
# relative error that an 8-bit product may have against the unquantized one, and a 4-bit one
EIGHT_BITS, FOUR_BITS = 0.05, 0.2


@dataclass(frozen=True)
class Rival:
    """`make(weight)` gives what multiplies x by it; `scheme` is the nearest of ours."""

    scheme: str
    backend: str
    make: Callable[[torch.Tensor], Run]
    bound: float = EIGHT_BITS


def _core(layout: str, **settings: Any) -> Callable[[torch.Tensor], Run]:
    def make(weight: torch.Tensor) -> Run:
        kitchen = importlib.import_module("comfy_kitchen.tensor")
        quantized = kitchen.QuantizedTensor.from_float(weight, layout, **settings)
        return lambda x: F.linear(x, quantized)

    return make


def _layer(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], False, weight.device, weight.dtype)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return layer


def _torchao(config: str) -> Callable[[torch.Tensor], Run]:
    def make(weight: torch.Tensor) -> Run:
        quantization = importlib.import_module("torchao.quantization")
        model = nn.Sequential(_layer(weight))
        quantization.quantize_(model, getattr(quantization, config)())
        return model

    return make


def _quanto(weights: str, activations: str | None = None) -> Callable[[torch.Tensor], Run]:
    def make(weight: torch.Tensor) -> Run:
        quanto = importlib.import_module("optimum.quanto")
        model = nn.Sequential(_layer(weight))
        chosen = getattr(quanto, activations) if activations else None
        quanto.quantize(model, weights=getattr(quanto, weights), activations=chosen)
        quanto.freeze(model)
        return model

    return make


RIVALS = (
    Rival("int8", "ComfyUI", _core("TensorWiseINT8Layout", per_channel=True)),
    Rival("int8_convrot", "ComfyUI", _core("TensorWiseINT8Layout", per_channel=True, convrot=True)),
    Rival("fp8", "ComfyUI", _core("TensorCoreFP8Layout", scale="recalculate")),
    Rival("int8", "torchao", _torchao("Int8DynamicActivationInt8WeightConfig")),
    Rival("int8_weight_only", "torchao", _torchao("Int8WeightOnlyConfig")),
    Rival("fp8_row", "torchao", _torchao("Float8WeightOnlyConfig")),
    Rival("int8_weight_only", "quanto", _quanto("qint8")),
    Rival("int4_g128", "quanto", _quanto("qint4"), FOUR_BITS),
)


def prepared(rival: Rival, weight: torch.Tensor) -> Run | str:
    """What multiplies by `weight`, or the reason why this rival cannot here."""
    try:
        return rival.make(weight)
    except (ImportError, AttributeError, NotImplementedError, RuntimeError, ValueError,
            TypeError, AssertionError, KeyError) as error:  # fmt: skip
        lines = str(error).splitlines() or [""]
        return f"{type(error).__name__}: {lines[0][:200]}"
