"""convert_to_quant's hybrid mxfp8 in, float32 rows out.

w = q * 2^(e - 127) for each 32 inputs of a row: q e4m3, rows and columns padded to 32; e uint8
(e8m0) in the order of tensor cores. Its one scalar for the whole weight is for devices without
mxfp8 and says nothing of the numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import Codec
from ._swizzle import unswizzled

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors

BLOCK, BIAS = 32, 127


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop), without the columns that fill up the last block."""
    import torch

    codes = tensors["weight"][start:stop]
    blocks = codes.shape[1] // BLOCK
    exponents = unswizzled(tensors["scale"].view(torch.uint8), blocks, start, stop)
    powers = torch.ldexp(torch.ones(exponents.shape), exponents.to(torch.int32) - BIAS)
    values = codes.to(torch.float32).view(stop - start, blocks, BLOCK) * powers.unsqueeze(-1)
    return values.view(stop - start, -1)[:, : int(str(settings["columns"]))]


CODEC = Codec(
    name="hybrid_mxfp8",
    title="FP8 e4m3, one exponent per 32 inputs",
    whose="convert_to_quant",
    bits=8.25,
    rows=rows,
)
