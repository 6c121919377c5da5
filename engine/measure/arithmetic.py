"""Tensors in, tensors out: what diffusion transformers have in common, and a network of named
parameters whose linears and blocks can be replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling

AXES = (16, 56, 56)  # numbers of a head that turn with the index, the row and the column of a token
THETA = 10_000.0
TIME_CHANNELS = 256

Linear = Callable[[torch.Tensor], torch.Tensor]
Getter = Callable[[str], torch.Tensor]
RunBlock = Callable[..., Any]  # (block, *tensors) -> what the block gives for them


def run_at_once(block: Callable[..., Any], *tensors: torch.Tensor) -> Any:
    """The plain way to run a block."""
    return block(*tensors)


class Network:
    """Parameters by name from a mapping or a function, one at a time.

    `linears` replaces layers: {layer name: x (..., K) -> y (..., N), bias included}; the others
    compute x @ weight.T + bias in the dtype of the inputs. `run_block` runs each block.
    """

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor] | Getter,
        linears: Mapping[str, Linear] | None = None,
        run_block: RunBlock = run_at_once,
    ) -> None:
        self.get: Getter = weights.__getitem__ if isinstance(weights, Mapping) else weights
        self.run_block = run_block
        self._linears = linears or {}

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """x (..., K) -> (..., N)."""
        if name in self._linears:
            return self._linears[name](x)
        return F.linear(x, self.get(f"{name}.weight").to(x), self.get(f"{name}.bias").to(x))

    def rms_norm(self, key: str, x: torch.Tensor) -> torch.Tensor:
        """x over the root of its mean square along the last dimension, times the parameter."""
        return F.rms_norm(x, x.shape[-1:], self.get(key).to(x), 1e-6)

    def two_layers(
        self, first: str, then: str, x: torch.Tensor, between: Callable[[torch.Tensor], Any]
    ) -> torch.Tensor:
        """linear, `between`, linear."""
        return self.linear(then, between(self.linear(first, x)))


def gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU by its tanh form, which all of these models use."""
    return F.gelu(x, approximate="tanh")


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """(1 + scale) * layer_norm(x) + shift, the norm without weights."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def waves(t: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B, 256): cos and sin of 1000 t times 128 falling frequencies, in float32."""
    half = TIME_CHANNELS // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = 1000.0 * t.float()[:, None] * torch.exp(-math.log(10_000.0) / half * steps)
    return torch.cat((angles.cos(), angles.sin()), -1)


def picture(grid: tuple[int, int], centered: bool = False) -> torch.Tensor:
    """Positions (H * W, 3) of image tokens: 0, row, column, counted from the middle if asked."""
    height, width = grid
    rows = torch.arange(height) - (height // 2 if centered else 0)
    columns = torch.arange(width) - (width // 2 if centered else 0)
    flat = torch.zeros(height * width, dtype=torch.int64)
    return torch.stack((flat, rows.repeat_interleave(width), columns.repeat(height)), -1)


def turns(
    positions: torch.Tensor, device: torch.device, axes: Sequence[int] = AXES
) -> torch.Tensor:
    """Positions (L, 3) -> angles (L, 64) in float32, each axis with its own run of frequencies."""
    angles = []
    for axis, position in zip(axes, positions.unbind(-1), strict=True):
        speed = THETA ** -(torch.arange(0, axis, 2, dtype=torch.float64) / axis)
        angles.append(position[:, None] * speed)
    return torch.cat(angles, -1).float().to(device)


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, angles: torch.Tensor | None
) -> torch.Tensor:
    """softmax(q k^T / sqrt(128)) v: q, k, v (B, heads, L, 128), angles (L, 64) -> (B, L, hidden).

    `angles` None leaves q and k as they are.
    """
    if angles is not None:
        q, k = turn(q, angles), turn(k, angles)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def turn(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn each pair of neighbouring numbers by its angle (rotary position), in float32."""
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1)
    return turned.flatten(-2).to(x.dtype)
