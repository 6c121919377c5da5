"""Marlin's int4 weights in, numbers out: tiles of 16 x 16 in the order of the GPU's fragments.

w = (q - 8) * scale. Along K, then N, the tiles of the transposed weight lie one after the other;
of four neighbors the 1024 codes are permuted and packed by eight, the first in the lowest bits:
int32 (k / 16, 2 n). Scales (groups, n) in fp16 are permuted in runs of 64, one group in runs of 32.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ._groups import Groups, grouped, unpack, whole

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors

TILE, RUN = 16, 64  # a tile's side; rows whose codes are permuted together


def fragment_order() -> list[int]:
    """Where in four tiles, each row by row (k, then n), the code at each stored place comes from.

    A thread of the 32 holds rows 2t, 2t + 1, 2t + 8, 2t + 9 (t = thread % 4) of columns
    thread // 4 and 8 more; of its eight codes the even ones are stored first.
    """
    order = []
    for thread in range(32):
        rows = [2 * (thread % 4) + step for step in (0, 1, 8, 9)]
        held = [TILE * row + thread // 4 + more for more in (0, 8) for row in rows]
        for tile in range(4):
            order += [held[at] + tile * TILE * TILE for at in (0, 2, 4, 6, 1, 3, 5, 7)]
    return order


def scale_order(groups: int) -> list[int]:
    """Which column of a run the scale at each stored place belongs to."""
    if groups > 1:
        return [first + 8 * step for first in range(8) for step in range(8)]
    steps = (0, 1, 8, 9, 16, 17, 24, 25)
    return [2 * first + step for first in range(4) for step in steps]


@cache
def _back(groups: int | None) -> torch.Tensor:
    """The stored place of each code of four tiles (None), or of each scale of a run."""
    import torch

    order = fragment_order() if groups is None else scale_order(groups)
    return torch.tensor(order).argsort()


def decode(tensors: Tensors, settings: Settings, start: int, stop: int) -> Groups:
    """Rows [start, stop), from a multiple of 64 on."""
    import torch

    packed, scale = tensors["weight"][:, 2 * start : 2 * stop], tensors["scale"]
    tiles, rows = packed.shape[0], stop - start
    ordered = unpack(packed, 4).reshape(-1, RUN * TILE)[:, _back(None)]
    codes = ordered.reshape(tiles, rows // TILE, TILE, TILE).permute(1, 3, 0, 2)
    back = _back(min(scale.shape[0], 2))
    runs = scale[:, start:stop].to(torch.float16).reshape(scale.shape[0], -1, len(back))
    return Groups(
        codes.reshape(rows, tiles * TILE).to(torch.int8) - 8,
        runs[:, :, back].reshape(scale.shape[0], rows).t(),
        whole(settings, "group"),
    )


CODEC = grouped("marlin_int4", "Marlin int4", "LightX2V, AutoGPTQ", 4.125, decode, row_step=RUN)
