"""compressed-tensors' packed weights in, numbers out: codes along the inputs of a row in int32.

w = (q - zero) * scale; a word holds 32 / bits codes q + 2^(bits - 1), the first in its lowest
bits: (n, k * bits / 32). scale (n, groups); zero int8 like it, or packed so along the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._groups import Groups, grouped, unpack, unpack_rows, whole

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors


def _signed(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes from 0 up as codes around 0."""
    import torch

    return (codes.to(torch.int16) - (1 << (bits - 1))).to(torch.int8)


def decode(tensors: Tensors, settings: Settings, start: int, stop: int) -> Groups:
    """Rows [start, stop)."""
    import torch

    bits, k, size = (whole(settings, key) for key in ("bits", "inputs", "group"))
    codes = _signed(unpack(tensors["weight"][start:stop], bits)[:, :k], bits)
    zero = tensors.get("zeros")
    if zero is not None and zero.dtype == torch.int32:
        zero = _signed(unpack_rows(zero.t(), bits, start, stop), bits)
    elif zero is not None:
        zero = zero[start:stop]
    scale = tensors["scale"].reshape(-1, -(-k // size))
    if scale.shape[0] == 1:  # one number for the whole weight
        scale = scale.expand(stop, -1)
    return Groups(codes, scale[start:stop], size, zero=zero)


CODEC = grouped("packed_int32", "codes packed in int32", "compressed-tensors", 4.125, decode)
