"""Rows and an adapter's delta in, changed rows out: the plain sum, and DoRA's decomposition."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from ..rows import RowReader
from .adapter import Operands, Shape, read_step, width

# delta(start, stop, base) -> (stop - start, width) float32, without alpha and strength;
# base (stop - start, width) are the rows before this adapter
Delta = Callable[[int, int, torch.Tensor], torch.Tensor]


def compose(
    operands: Operands, reader: RowReader, shape: Shape, delta: Delta, scale: float
) -> RowReader:
    """rows + strength * scale * delta, or the decomposed weight where there is a DoRA vector."""
    if operands.has("dora_scale") or operands.has("magnitude"):
        return decomposed(operands, reader, shape, delta, scale)
    factor = operands.strength * scale

    def rows(start: int, stop: int) -> torch.Tensor:
        base = reader(start, stop)
        base.add_(delta(start, stop, base), alpha=factor)
        return base

    return rows


def decomposed(
    operands: Operands, reader: RowReader, shape: Shape, delta: Delta, scale: float
) -> RowReader:
    """DoRA: W' = W + strength * ((W + scale * delta) * m / (norm + eps) - W), eps of float32.

    Three vectors are in use, and each has its own norm:
    dora_scale (N, 1, ...): norm of each row of W *before* the delta, as ComfyUI has it.
    dora_scale (1, K, ...): norm of each input channel of W + scale * delta, over rows and kernel.
    lora_magnitude_vector (N), PEFT's own: norm of each row of W + scale * delta.
    """
    n, columns, strength = shape[0], width(shape), operands.strength
    role = "dora_scale" if operands.has("dora_scale") else "magnitude"
    vector = operands.load(role)
    by_row = role == "magnitude" or vector.shape[0] == vector.numel() == n
    kernel = width(shape[1:]) if len(shape) > 1 else 1
    eps = torch.finfo(torch.float32).eps

    def changed(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        base = reader(start, stop)
        return base, base + scale * delta(start, stop, base)

    def channel_norms() -> torch.Tensor:
        total = torch.zeros(columns // kernel, dtype=torch.float64, device=operands.device)
        step = read_step(columns)
        for start in range(0, n, step):
            part = changed(start, min(n, start + step))[1].double()
            total += part.square().sum(0).reshape(-1, kernel).sum(1)
        return total.sqrt().float()

    once = _Once(channel_norms)

    def factors(start: int, stop: int, base: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        if by_row:
            measured = whole if role == "magnitude" else base
            norm: torch.Tensor = torch.linalg.vector_norm(measured, dim=1, keepdim=True)
            return vector.reshape(n, 1)[start:stop] / (norm + eps)
        ratio = vector.reshape(-1) / (once.value() + eps)
        return ratio.repeat_interleave(kernel).reshape(1, columns)

    def rows(start: int, stop: int) -> torch.Tensor:
        base, whole = changed(start, stop)
        whole *= factors(start, stop, base, whole)
        base.lerp_(whole, strength) if strength != 1.0 else base.copy_(whole)
        return base

    return rows


class _Once:
    """A value computed at its first use, by one thread only."""

    def __init__(self, compute: Callable[[], torch.Tensor]) -> None:
        self._compute, self._lock = compute, threading.Lock()
        self._value: torch.Tensor | None = None

    def value(self) -> torch.Tensor:
        with self._lock:
            if self._value is None:
                self._value = self._compute()
            return self._value
