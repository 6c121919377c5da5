"""SVDQuant's stored tensors in, rows of their numbers out, from the plain and the tiled layout.

Tiles of 128 output rows: codes (n / 128, k / 64, 32, 128) with four rows of 32 bytes in the last
side, scales (n / 128, k / 64, 128), up (n / 128, r, 128). Plain: codes (n, k / 2), scales
(k / 64, n), up (n, r).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TILE, GROUP = 128, 64


def _in_tiles(start: int, stop: int) -> tuple[slice, slice]:
    """The tiles that rows [start, stop) lie in, and the rows among the rows of these tiles."""
    first, last = start // TILE, -(-stop // TILE)
    return slice(first, last), slice(start - first * TILE, stop - first * TILE)


def signed_codes(packed: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """4-bit two's complement, the even column low: rows [start, stop) as float32 (rows, k)."""
    import torch

    if packed.dim() == 4:
        tiles, rows = _in_tiles(start, stop)
        inside = packed[tiles]
        ordered = inside.view(*inside.shape[:3], 4, GROUP // 2).permute(0, 2, 3, 1, 4)
        chosen = ordered.flatten(3).flatten(0, 2)[rows]
    else:
        chosen = packed[start:stop]
    raw = chosen.contiguous().view(torch.uint8)
    codes = torch.stack((raw & 15, raw >> 4), -1).reshape(stop - start, -1)
    return (codes ^ 8).to(torch.float32) - 8


def tiled_rows(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of (n / 128, c, 128) as float32 (rows, c)."""
    import torch

    tiles, rows = _in_tiles(start, stop)
    return tensor[tiles].transpose(1, 2).flatten(0, 1)[rows].to(torch.float32)


def smoothed(
    packed: torch.Tensor, scale: torch.Tensor, smooth: torch.Tensor, start: int, stop: int
) -> torch.Tensor:
    """q * s / smooth: what multiplies the input itself in the 4-bit branch, rows [start, stop)."""
    codes = signed_codes(packed, start, stop)
    if scale.dim() == 3:
        per_group = tiled_rows(scale, start, stop)
    else:
        per_group = scale[:, start:stop].t().to(codes.dtype)
    grouped = codes.view(stop - start, -1, GROUP) * per_group.unsqueeze(-1)
    return grouped.view(stop - start, -1) / smooth.reshape(-1).to(codes.dtype)
