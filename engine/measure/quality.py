"""Weights and a scheme in, how far the transformer's output moves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ..scheme import Scheme
from ..tensors import dtype_name
from .arithmetic import Linear
from .config import Config
from .errors import LayerError, cosine, layer_error, relative_error
from .references import Inputs, call


@dataclass(frozen=True)
class OutputError:
    """How far the output is from the reference: |b - a| / |a| and the cosine."""

    relative_error: float
    cosine: float


def bind(
    scheme: Scheme,
    tensors: Mapping[str, torch.Tensor],
    settings: Mapping[str, object],
    bias: torch.Tensor | None,
) -> Linear:
    """A quantized layer as a function of x, to stand in for a linear of the transformer."""

    def linear(x: torch.Tensor) -> torch.Tensor:
        return scheme.linear(x, tensors, settings, None if bias is None else bias.to(x.dtype))

    return linear


def quantize_linears(
    scheme: Scheme, weights: Mapping[str, torch.Tensor], names: Iterable[str]
) -> tuple[dict[str, Linear], tuple[LayerError, ...]]:
    """Quantize each named layer once; the functions that run it and the error of each weight.

    A layer whose shape the scheme refuses is left out and so stays as it is.
    """
    linears: dict[str, Linear] = {}
    found = []
    for name in names:
        weight = weights[f"{name}.weight"]
        n, k = weight.shape
        if scheme.refuses(n, k) is not None:
            continue
        settings = {**scheme.config(n, k), **scheme.settings}
        tensors = scheme.quantize(weight, None, dtype_name(weight.dtype))
        linears[name] = bind(scheme, tensors, settings, weights.get(f"{name}.bias"))
        found.append(layer_error(name, weight, scheme.dequantize(tensors, settings)))
    return linears, tuple(found)


def output(
    config: Config,
    weights: Mapping[str, torch.Tensor],
    inputs: Inputs,
    linears: Mapping[str, Linear] | None = None,
) -> torch.Tensor:
    """Run the transformer once without gradients; (batch, tokens, channels)."""
    with torch.inference_mode():
        return call(config, weights, inputs, linears)


def output_error(reference: torch.Tensor, other: torch.Tensor) -> OutputError:
    """The error of one output against another."""
    return OutputError(relative_error(reference, other), cosine(reference, other))
