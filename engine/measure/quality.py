"""Weights and a scheme in, how far the transformer's output moves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ..scheme import Scheme
from ..tensors import dtype_name
from .config import FluxConfig
from .errors import LayerError, cosine, layer_error, relative_error
from .synthetic import generator
from .transformer import Linear, ReferenceTransformer


@dataclass(frozen=True)
class Inputs:
    """One call of the transformer, as `ReferenceTransformer.__call__` takes it."""

    img: torch.Tensor
    txt: torch.Tensor
    vector: torch.Tensor
    timestep: torch.Tensor
    guidance: torch.Tensor
    grid: tuple[int, int]


@dataclass(frozen=True)
class OutputError:
    """How far the output is from the reference: |b - a| / |a| and the cosine."""

    relative_error: float
    cosine: float


def make_inputs(
    config: FluxConfig, grid: tuple[int, int] = (16, 16), text_tokens: int = 64, seed: int = 0
) -> Inputs:
    """Normal numbers in float32 for an image of `grid` tokens and a prompt, midway in sampling."""
    source = generator(seed, "inputs")
    return Inputs(
        img=torch.randn(1, grid[0] * grid[1], 64, generator=source),
        txt=torch.randn(1, text_tokens, config.context, generator=source),
        vector=torch.randn(1, config.vector, generator=source),
        timestep=torch.tensor([0.6]),
        guidance=torch.tensor([3.5]),
        grid=grid,
    )


def block_linears(config: FluxConfig) -> list[str]:
    """The attention and MLP layers of every block: what every scheme quantizes."""
    return [
        name
        for name in config.linears()
        if "_blocks." in name and not name.endswith(("_mod.lin", "modulation.lin"))
    ]


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
    config: FluxConfig,
    weights: Mapping[str, torch.Tensor],
    inputs: Inputs,
    linears: Mapping[str, Linear] | None = None,
) -> torch.Tensor:
    """Run the transformer once without gradients; (1, tokens, 64)."""
    with torch.inference_mode():
        return ReferenceTransformer(config, weights, linears)(
            inputs.img,
            inputs.txt,
            inputs.vector,
            inputs.timestep,
            inputs.guidance,
            inputs.grid,
        )


def output_error(reference: torch.Tensor, other: torch.Tensor) -> OutputError:
    """The error of one output against another."""
    return OutputError(relative_error(reference, other), cosine(reference, other))
