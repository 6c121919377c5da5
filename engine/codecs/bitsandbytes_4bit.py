"""bitsandbytes' nf4 and fp4 in, numbers out: 16 values, one magnitude for each block of the weight.

w = map[q] * absmax[e // size] for element e, counted over the rows; two codes a byte, the first in
the high nibble. Nested: absmax = nested_map[code] * nested_absmax[e // (size * nested)] + offset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import Codec
from ._groups import whole

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors


def _magnitudes(tensors: Tensors, settings: Settings, first: int, last: int) -> torch.Tensor:
    """absmax of blocks [first, last) in float32."""
    import torch

    absmax = tensors["absmax"].reshape(-1)[first:last]
    if "nested_absmax" not in tensors:
        return absmax.to(torch.float32)
    outer = torch.arange(first, last) // whole(settings, "nested")
    found = tensors["nested_map"].to(torch.float32)[absmax.to(torch.int64)]
    found *= tensors["nested_absmax"].to(torch.float32)[outer]
    return found + float(str(settings["offset"]))


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop); a block, and a byte, may begin in one row and end in the next."""
    import torch

    k, size = whole(settings, "inputs"), whole(settings, "block")
    first, last = start * k, stop * k
    packed = tensors["weight"].reshape(-1).view(torch.uint8)[first // 2 : -(-last // 2)]
    codes = torch.stack((packed >> 4, packed & 15), -1).reshape(-1)
    codes = codes[first % 2 : first % 2 + last - first]
    found = tensors["map"].to(torch.float32)[codes.to(torch.int64)]
    low, high = first // size, -(-last // size)
    magnitudes = _magnitudes(tensors, settings, low, high).repeat_interleave(size)
    found *= magnitudes[first - low * size : last - low * size]
    return found.reshape(stop - start, k)


CODEC = Codec(
    name="bitsandbytes_4bit",
    title="nf4 and fp4 in blocks",
    whose="bitsandbytes",
    bits=4.13,
    rows=rows,
)
