"""Scales in the order of tensor cores in, rows of scales out.

Blocked formats of Blackwell (nvfp4, mxfp8) store one scale for each run of inputs. Rows are padded
to 128, columns to 4; each 128 x 4 tile of them is 512 bytes, tiles row by row. In a tile the scale
of row r, column c lies at 16 * (r % 32) + 4 * (r // 32) + c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TILE_ROWS, TILE_COLUMNS, LANES = 128, 4, 32


def unswizzled(scale: torch.Tensor, columns: int, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of the scales: (stop - start, columns) in the stored dtype."""
    across = -(-columns // TILE_COLUMNS)
    first, last = start // TILE_ROWS, -(-stop // TILE_ROWS)
    size = across * TILE_ROWS * TILE_COLUMNS
    tiles = scale.reshape(-1)[first * size : last * size]
    tiles = tiles.view(last - first, across, LANES, TILE_ROWS // LANES, TILE_COLUMNS)
    ordered = tiles.permute(0, 3, 2, 1, 4).reshape(-1, across * TILE_COLUMNS)
    return ordered[start - first * TILE_ROWS : stop - first * TILE_ROWS, :columns]
