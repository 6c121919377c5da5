"""The regular Hadamard matrix that groups of inputs are rotated by: orthogonal and symmetric."""

from __future__ import annotations

from functools import cache

import torch

_H4 = ((1.0, 1.0, 1.0, -1.0), (1.0, 1.0, -1.0, 1.0), (1.0, -1.0, 1.0, 1.0), (-1.0, 1.0, 1.0, 1.0))


@cache
def hadamard(size: int, device: torch.device) -> torch.Tensor:
    """H4 kron H4 kron ... / sqrt(size) as float32 (size, size), so that H H = I.

    `size` is a power of four. Row sums are all alike, which is what `regular` means. The matrix is
    kept, and nobody may write into it.
    """
    if size < 4 or size & (size - 1) or size.bit_length() % 2 == 0:
        raise ValueError(f"a rotation group is a power of 4, not {size}")
    with torch.inference_mode(False):
        four = torch.tensor(_H4, dtype=torch.float32, device=device)
        matrix = four
        while matrix.shape[0] < size:
            matrix = torch.kron(matrix, four)
        return matrix.div_(size**0.5)
