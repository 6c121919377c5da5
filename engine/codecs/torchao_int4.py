"""torchao's Int4Tensor in, numbers out: two signed codes a byte, the even input in the low nibble.

w = q * scale + zero; q -8..7 packed int8 (n, k / 2), scale and zero (k / g, n).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._groups import Groups, grouped, unpack, whole

if TYPE_CHECKING:
    from ..codec import Settings, Tensors


def decode(tensors: Tensors, settings: Settings, start: int, stop: int) -> Groups:
    """Rows [start, stop)."""
    import torch

    k = whole(settings, "inputs")
    codes = unpack(tensors["weight"][start:stop], 4)[:, :k].to(torch.int8)
    offset = tensors["zeros"][:, start:stop].t() if "offset" in settings else None
    return Groups(
        (codes ^ 8) - 8,
        tensors["scale"][:, start:stop].t(),
        whole(settings, "group"),
        offset=offset,
        columns=tensors.get("columns"),
    )


CODEC = grouped("torchao_int4", "INT4 in groups", "torchao", 4.25, decode)
