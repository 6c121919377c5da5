"""LightX2V's mxfp8 in, float32 rows out, or the same codes as ComfyUI's mxfp8 holds them.

w = e4m3(q) * 2^(e[k // 32] - 127): q uint8 (n, k), e uint8 in tiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import Codec
from ..tiling import ROWS
from ._microscaled import exponents, mxfp8_pieces, times_power

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors


def _codes(tensors: Tensors, start: int, stop: int) -> torch.Tensor:
    import torch

    return tensors["weight"][start:stop].view(torch.float8_e4m3fn)


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop): codes times the power of two of their block."""
    from ...kernels import bits

    codes = _codes(tensors, start, stop)
    powers = exponents(tensors, start, stop, codes.shape[1])
    return times_power(bits.e4m3_to_float(codes), powers)


def restate(tensors: Tensors, settings: Settings, start: int, stop: int) -> dict[str, torch.Tensor]:
    """The same bytes, 0 in blocks whose exponent is."""
    codes = _codes(tensors, start, stop)
    return mxfp8_pieces(codes, exponents(tensors, start, stop, codes.shape[1]))


CODEC = Codec(
    name="lightx2v_mxfp8",
    title="MXFP8 of LightX2V",
    whose="LightX2V",
    bits=8.25,
    rows=rows,
    row_step=ROWS,
    home=lambda settings: "mxfp8",
    restate=restate,
)
