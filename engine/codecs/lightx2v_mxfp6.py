"""LightX2V's mxfp6 in, float32 rows out, or the same numbers in ComfyUI's mxfp8.

w = e3m2(q) * 2^(e[k // 32] - 127): four codes q in three bytes of uint8 (n, 3 k / 4), the first in
the lowest six bits; e uint8 in tiles. Each e3m2 number is an e4m3 number too.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ..codec import Codec
from ..tiling import ROWS
from ._microscaled import exponents, mxfp8_pieces, times_power

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors


def number(code: int) -> float:
    """The number of an e3m2 code: s eee mm, the exponent's bias is 3."""
    sign, exponent, mantissa = -1.0 if code & 32 else 1.0, code >> 2 & 7, code & 3
    size = (4 + mantissa) * 2.0 ** (exponent - 5) if exponent else mantissa * 2.0**-4
    return sign * size


@cache
def _as_e4m3() -> torch.Tensor:
    """The e4m3 byte of each e3m2 code."""
    import torch

    numbers = torch.tensor([number(code) for code in range(64)])
    return numbers.to(torch.float8_e4m3fn).view(torch.uint8)


def _codes(tensors: Tensors, start: int, stop: int) -> torch.Tensor:
    """e4m3 (rows, k)."""
    import torch

    packed = tensors["weight"][start:stop].to(torch.int32)
    words = packed.view(packed.shape[0], packed.shape[1] // 3, 3)
    whole = words[..., 0] | words[..., 1] << 8 | words[..., 2] << 16
    shifts = torch.tensor([0, 6, 12, 18], dtype=torch.int32)
    codes = (whole.unsqueeze(-1) >> shifts & 63).flatten()
    found = _as_e4m3().index_select(0, codes)
    return found.view(packed.shape[0], words.shape[1] * 4).view(torch.float8_e4m3fn)


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop): codes times the power of two of their block."""
    from ...kernels import bits

    codes = _codes(tensors, start, stop)
    powers = exponents(tensors, start, stop, codes.shape[1])
    return times_power(bits.e4m3_to_float(codes), powers)


def restate(tensors: Tensors, settings: Settings, start: int, stop: int) -> dict[str, torch.Tensor]:
    """Each code as the e4m3 code of the same number."""
    codes = _codes(tensors, start, stop)
    return mxfp8_pieces(codes, exponents(tensors, start, stop, codes.shape[1]))


CODEC = Codec(
    name="lightx2v_mxfp6",
    title="MXFP6 of LightX2V",
    whose="LightX2V",
    bits=6.25,
    rows=rows,
    row_step=ROWS,
    home=lambda settings: "mxfp8",
    restate=restate,
)
