"""LightX2V's mxfp4 in, float32 rows out, or the same codes as ComfyUI's nvfp4 holds them.

w = e2m1(q) * 2^(e[k // 32] - 127): q uint8 (n, k / 2), the even input in the low half; e uint8 in
tiles. e4m3 has 18 powers of two, so nvfp4 holds a weight whose exponents span no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import Codec
from ..tiling import ROWS
from ._microscaled import exponents, times_power

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors

EXPONENTS = "exponents"  # the setting: the smallest and the largest above 0 of the whole weight
HIGHEST, LOWEST = 8, -9  # powers of two of e4m3
SMALLEST = HIGHEST + 1  # exponent byte for which the scale of the whole is a normal float32


def _ends(settings: Settings) -> tuple[int, int]:
    found = settings[EXPONENTS]
    if not isinstance(found, (list, tuple)):
        raise ValueError(f"{EXPONENTS} {found!r} are no pair")
    return int(found[0]), int(found[1])


def home(settings: Settings) -> str | None:
    """nvfp4 where its block scales reach from the smallest exponent to the largest."""
    low, high = _ends(settings)
    return "nvfp4" if high - low <= HIGHEST - LOWEST and high >= SMALLEST else None


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop): codes times the power of two of their block."""
    from ...kernels import bits

    codes = bits.unpack_nibbles(tensors["weight"][start:stop])
    values = bits.e2m1_to_float(codes)
    return times_power(values, exponents(tensors, start, stop, values.shape[1]))


def restate(tensors: Tensors, settings: Settings, start: int, stop: int) -> dict[str, torch.Tensor]:
    """The halves of each byte changed over, a block of 32 as two of 16 with the same e4m3 power."""
    import torch
    from torch.nn import functional

    from ...kernels import bits
    from ...kernels.tiles import tiled

    codes = bits.swap_nibbles(tensors["weight"][start:stop])
    powers = exponents(tensors, start, stop, 2 * codes.shape[1])
    whole = 2.0 ** (_ends(settings)[1] - 127 - HIGHEST)
    scales = (bits.e8m0_to_float(powers) / whole).to(torch.float8_e4m3fn).view(torch.uint8)
    return {
        "weight": functional.pad(codes, (0, 0, 0, -codes.shape[0] % 16)),
        "scale": tiled(scales.repeat_interleave(2, 1)),
        "scale_2": torch.tensor(whole, dtype=torch.float32),
    }


CODEC = Codec(
    name="lightx2v_mxfp4",
    title="MXFP4 of LightX2V",
    whose="LightX2V",
    bits=4.25,
    rows=rows,
    row_step=ROWS,
    home=home,
    restate=restate,
)
