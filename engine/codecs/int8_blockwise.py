"""convert_to_quant's int8 with one scale for each g x g tile in, float32 rows out.

w = q * s[row // g, column // g]; q int8 (n, k), s float32 (ceil(n / g), ceil(k / g)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import Codec

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop): codes times the scale of their tile."""
    import torch

    codes, scale = tensors["weight"][start:stop], tensors["scale"]
    size = int(str(settings["group_size"]))
    at = torch.arange(start, stop) // size
    spread = scale[at].to(torch.float32).repeat_interleave(size, 1)[:, : codes.shape[1]]
    return codes.to(torch.float32) * spread


CODEC = Codec(
    name="int8_blockwise",
    title="INT8, one scale per tile",
    whose="convert_to_quant",
    bits=8,
    rows=rows,
)
