"""The regular Hadamard matrix that ConvRot rotates groups of inputs by: (g, g), orthogonal, symmetric."""

from __future__ import annotations

from functools import cache

import torch

GROUP_SIZES = (256, 64, 16)

_H4 = ((1.0, 1.0, 1.0, -1.0), (1.0, 1.0, -1.0, 1.0), (1.0, -1.0, 1.0, 1.0), (-1.0, 1.0, 1.0, 1.0))


def group_size_for(k: int) -> int | None:
    """The largest of 256, 64 and 16 that divides `k`; None when none does."""
    return next((size for size in GROUP_SIZES if k and k % size == 0), None)


@cache
def hadamard(size: int, device: torch.device, norm: float | None = None) -> torch.Tensor:
    """H4 kron H4 kron ... / norm as float32 (size, size); norm sqrt(size) (the default) makes H H = I.

    `size` is a power of four. Row sums are all alike, which is what `regular` means.
    """
    if size < 4 or size & (size - 1) or size.bit_length() % 2 == 0:
        raise ValueError(f"a rotation group is a power of 4, not {size}")
    with torch.inference_mode(False):
        four = torch.tensor(_H4, dtype=torch.float32, device=device)
        matrix = four
        while matrix.shape[0] < size:
            matrix = torch.kron(matrix, four)
        return matrix / (size**0.5 if norm is None else norm)
