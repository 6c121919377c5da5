"""Activations made and quantized, and products with a low-rank branch, as their formulas read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from ..registry import Claim
from ._formulas import rounded_rows

Tensor = torch.Tensor
E4M3 = torch.float8_e4m3fn


def prepared(
    x: Tensor, before: str, gain: Tensor | None, shift: Tensor | None, epsilon: float
) -> Tensor:
    """(M, K) -> float32 (M, K): what stands between a layer's input and its quantizing."""
    values = x.to(torch.float32)
    if before == "layer_norm":
        weight, bias = (None if t is None else t.to(torch.float32) for t in (gain, shift))
        return functional.layer_norm(values, values.shape[-1:], weight, bias, epsilon)
    if before == "silu":
        return functional.silu(values)
    if before in ("gelu", "gelu_tanh"):
        return functional.gelu(values, approximate="tanh" if before == "gelu_tanh" else "none")
    return values


def quantize_activations(
    x: Tensor,
    dtype: torch.dtype,
    group_size: int,
    before: str,
    gain: Tensor | None,
    shift: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """(M, K) -> codes (M, K), scales (M, groups)."""
    values = prepared(x, before, gain, shift, epsilon)
    rows, k = values.shape
    size = group_size or k
    runs = functional.pad(values, (0, -k % size)).reshape(-1, size)
    if dtype == torch.int8:
        codes, scale = rounded_rows(runs, 127.0, 0.0, 1e-30)
    else:
        amax = runs.abs().amax(dim=-1, keepdim=True)
        scale = amax.clamp(min=1e-10) / 448.0 if group_size else (amax / 448.0).clamp(min=1e-30)
        codes = (runs / scale).clamp(-448.0, 448.0)
    return codes.to(dtype).reshape(rows, -1)[:, :k].contiguous(), scale.reshape(rows, -1)


def branched(linear: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A linear -> the same with (x down.T) up.T added in float32, rounded once.

    x down.T is rounded to x's dtype, as it is where the branch runs as two layers.
    """

    def run(x: Tensor, down: Tensor, up: Tensor, **more: Any) -> Tensor:
        plain = linear(x=x.to(torch.float32), **more)
        middle = (x.to(torch.float32) @ down.to(torch.float32).T).to(x.dtype)
        return (plain + middle.to(torch.float32) @ up.to(torch.float32).T).to(x.dtype)

    return run


def add_low_rank(x: Tensor, y: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """(M, K), (M, N), (R, K), (N, R) -> (M, N), sums in float32."""
    middle = (x.to(torch.float32) @ down.to(torch.float32).T).to(x.dtype)
    return (y.to(torch.float32) + middle.to(torch.float32) @ up.to(torch.float32).T).to(y.dtype)


def low_rank_claims(linears: dict[str, tuple[Callable[..., Tensor], float]]) -> tuple[Claim, ...]:
    """{`int8`: (its linear, error bound)} -> claims on `int8_low_rank_linear` and so on."""
    return tuple(
        Claim(f"{name}_low_rank_linear", branched(linear), error=error)
        for name, (linear, error) in linears.items()
    )


CLAIMS = (
    Claim("quantize_activations", quantize_activations),
    Claim("add_low_rank", add_low_rank, error=0.004),
)
