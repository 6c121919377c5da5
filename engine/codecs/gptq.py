"""GPTQ's packed weights in, numbers out: codes along the inputs, transposed, in int32.

w = (q - zero) * scale; a word of qweight (k * bits / 32, n) holds 32 / bits inputs of a row, one of
qzeros (groups, n * bits / 32) as many rows, the first in its lowest bits; scale (groups, n). The
first version of the format stores zero - 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._groups import Groups, grouped, unpack, unpack_rows, whole

if TYPE_CHECKING:
    from ..codec import Settings, Tensors


def decode(tensors: Tensors, settings: Settings, start: int, stop: int) -> Groups:
    """Rows [start, stop)."""
    import torch

    bits = whole(settings, "bits")
    codes = unpack(tensors["weight"][:, start:stop].t(), bits)
    scale, size = tensors["scale"][:, start:stop].t(), whole(settings, "group")
    if settings["centered"]:
        half = 1 << (bits - 1)
        return Groups((codes.to(torch.int16) - half).to(torch.int8), scale, size)
    zero = unpack_rows(tensors["zeros"], bits, start, stop).to(torch.int16)
    stored = (zero + whole(settings, "zero_below")) & ((1 << bits) - 1)
    return Groups(codes, scale, size, zero=stored)


CODEC = grouped("gptq", "GPTQ", "AutoGPTQ, GPTQModel", 4.25, decode)
