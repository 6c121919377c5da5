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


def _values(tensors: Tensors, first: int, last: int) -> torch.Tensor:
    """map[q] of elements [first, last) in float32: two at once, by their byte."""
    import torch

    one = tensors["map"].to(torch.float32)
    pairs = torch.stack((one.repeat_interleave(16), one.repeat(16)), 1).view(torch.int64)
    packed = tensors["weight"].reshape(-1).view(torch.uint8)[first // 2 : -(-last // 2)]
    found = pairs.reshape(-1)[packed.to(torch.int32)].view(torch.float32)
    return found[first % 2 : first % 2 + last - first]


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop); a block, and a byte, may begin in one row and end in the next."""
    k, size = whole(settings, "inputs"), whole(settings, "block")
    first, last = start * k, stop * k
    found = _values(tensors, first, last)
    low, high = first // size, -(-last // size)
    magnitudes = _magnitudes(tensors, settings, low, high)
    if first % size or last % size:
        spread = magnitudes.repeat_interleave(size)
        return (found * spread[first - low * size : last - low * size]).reshape(stop - start, k)
    return found.reshape(-1, size).mul_(magnitudes[:, None]).reshape(stop - start, k)


CODEC = Codec(
    name="bitsandbytes_4bit",
    title="nf4 and fp4 in blocks",
    whose="bitsandbytes",
    bits=4.13,
    rows=rows,
)
