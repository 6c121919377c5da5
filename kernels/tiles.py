"""Block scales by row and column in, the order of 128 x 4 tiles that Blackwell reads out; and back.

The tiles of a row of tiles lie one behind the other, 512 numbers each; inside a tile, row r and
column c stand at 16 * (r % 32) + 4 * (r // 32) + c. The result is seen as (rows, columns) filled up
to whole tiles, so 128 rows of scales are 128 rows of it.
"""

from __future__ import annotations

import torch
from torch.nn import functional

Tensor = torch.Tensor
ROWS, COLUMNS = 128, 4


def filled(size: int, multiple: int) -> int:
    """The next multiple, `size` itself where it is one."""
    return -(-size // multiple) * multiple


def tiled_shape(rows: int, columns: int) -> tuple[int, int]:
    """The shape of the tiled scales of a matrix of blocks."""
    return filled(rows, ROWS), filled(columns, COLUMNS)


def tiled(scales: Tensor) -> Tensor:
    """uint8 (R, C) -> uint8 `tiled_shape`, zeros where there is no block."""
    rows, columns = scales.shape
    full = tiled_shape(rows, columns)
    whole = functional.pad(scales, (0, full[1] - columns, 0, full[0] - rows))
    parts = whole.view(full[0] // ROWS, 4, 32, full[1] // COLUMNS, COLUMNS)
    return parts.permute(0, 3, 2, 1, 4).reshape(full)


def untiled(scales: Tensor, rows: int, columns: int) -> Tensor:
    """uint8 `tiled_shape` -> uint8 (rows, columns)."""
    full = tiled_shape(rows, columns)
    parts = scales.reshape(full[0] // ROWS, full[1] // COLUMNS, 32, 4, COLUMNS)
    return parts.permute(0, 3, 2, 1, 4).reshape(full)[:rows, :columns]
