"""8-bit codes, each in its own byte, with scales (and zero points) on a grid in, numbers out.

w = (q - zero[row // a, column // b]) * scale[row // a, column // b]; q int8 or float8 (n, k).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._groups import Groups, grouped, whole

if TYPE_CHECKING:
    from ..codec import Settings, Tensors


def decode(tensors: Tensors, settings: Settings, start: int, stop: int) -> Groups:
    """Rows [start, stop): `rows` of them share a row of the grid, `group` inputs a column."""
    import torch

    at, size = torch.arange(start, stop) // whole(settings, "rows"), whole(settings, "group")
    wide = whole(settings, "inputs") // size
    zero = tensors.get("zeros")
    return Groups(
        tensors["weight"][start:stop],
        tensors["scale"].reshape(-1, wide)[at],
        size,
        zero=None if zero is None else zero.reshape(-1, wide)[at],
        columns=tensors.get("columns"),
    )


CODEC = grouped(
    "scaled_blocks",
    "8-bit codes, scales and zero points on a grid",
    "torchao, compressed-tensors, optimum-quanto",
    8,
    decode,
)
