"""Marlin's int4 weights in, numbers out: tiles of 16 x 16 in the order of the GPU's fragments.

w = (q - 8) * scale. The transposed weight is cut into tiles along K, then N; int32 (k / 16, 2 n)
holds for each k-tile and each run of 4 n-tiles the codes by thread (column c of 8, row pair r of
4), tile, then eight a word, the first in the lowest bits: row parity, column half, row half. So
inside a tile k = 8 * row half + 2 * r + parity, n = 8 * column half + c.
Scales fp16 (groups, n): each run of 64 transposed as 8 x 8; of one group, each run of 32 as
(4, 4, 2) with its first two axes exchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._groups import Groups, grouped, whole

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors

RUN = 64  # rows whose codes lie together: four tiles


def codes_of(packed: torch.Tensor) -> torch.Tensor:
    """Words (k / 16, 2 rows) -> codes 0..15 (rows, k)."""
    import torch

    tiles, rows = packed.shape[0], packed.shape[1] // 2
    # (k-tile, run, c, r, tile) -> (run, tile, c, k-tile, r): still words, an eighth of the codes
    words = packed.reshape(tiles, rows // RUN, 8, 4, 4).permute(1, 4, 2, 0, 3).contiguous()

    def parities(column_half: int, row_half: int) -> torch.Tensor:
        """The codes of both parities as the two bytes of an int16: they lie 16 bits apart."""
        both = (words >> (8 * column_half + 4 * row_half)) & 0x000F000F
        return (both | both >> 8).to(torch.int16)

    halves = [torch.stack([parities(column, row) for row in (0, 1)], -2) for column in (0, 1)]
    return torch.stack(halves, 2).reshape(rows, -1).view(torch.uint8)


def scales_of(stored: torch.Tensor, one_group: bool) -> torch.Tensor:
    """Scales (groups, rows) in the order of the rows, transposed: (rows, groups)."""
    groups, rows = stored.shape
    runs = stored.reshape(groups, -1, 4, 4, 2) if one_group else stored.reshape(groups, -1, 8, 8)
    return runs.transpose(2, 3).reshape(groups, rows).t()


def decode(tensors: Tensors, settings: Settings, start: int, stop: int) -> Groups:
    """Rows [start, stop), from a multiple of 64 on."""
    import torch

    count, last = stop - start, -(-stop // RUN) * RUN
    codes = codes_of(tensors["weight"][:, 2 * start : 2 * last])[:count].to(torch.int8) - 8
    stored = tensors["scale"][:, start:last].to(torch.float16)
    scale = scales_of(stored, one_group=stored.shape[0] == 1)[:count]
    return Groups(codes, scale, whole(settings, "group"))


CODEC = grouped("marlin_int4", "Marlin int4", "LightX2V, AutoGPTQ", 4.125, decode, row_step=RUN)
