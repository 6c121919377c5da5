"""What formulas of the plain backend have in common: rotated groups, rounded rows, one product."""

from __future__ import annotations

import torch

from ..hadamard import hadamard

Tensor = torch.Tensor


def rotated(weight: Tensor, group_size: int) -> Tensor:
    """(N, K) -> (N, K) float32, each group times H as one matmul."""
    values = weight.to(torch.float32)
    grouped = values.reshape(values.shape[0], values.shape[-1] // group_size, group_size)
    return torch.matmul(grouped, hadamard(group_size, weight.device).T).reshape(values.shape)


def rounded_rows(
    values: Tensor, top: float, least_amax: float, least_scale: float
) -> tuple[Tensor, Tensor]:
    """(N, K) float32 -> whole numbers within +-top as float32 (N, K), scale (N, 1)."""
    amax = values.abs().amax(dim=-1, keepdim=True).clamp(min=least_amax)
    scale = (amax / top).clamp(min=least_scale)
    return (values / scale).round_().clamp_(-top, top), scale


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x w.T + bias in float32, rounded once to `dtype`."""
    result = x @ weight.T
    if bias is not None:
        result += bias.to(torch.float32)
    return result.to(dtype)
