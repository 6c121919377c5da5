"""LightX2V's nvfp4 in, float32 rows out, or the same codes as ComfyUI's nvfp4 holds them.

w = e2m1(q) * s[k // 16] / g: q uint8 (n, k / 2), the even input in the low half; s e4m3 in tiles;
g float32. A calibrated file has alpha = 1 / (g * gi) and the input's own gi in the place of g.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import Codec
from ..tiling import ROWS
from ._microscaled import input_scale, scale_rows

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors


def scale_2(tensors: Tensors) -> torch.Tensor:
    """1 / g as a float32 scalar."""
    import torch

    if "global_scale" in tensors:
        return 1.0 / tensors["global_scale"].to(torch.float32).reshape(())
    alpha, of_input = (
        tensors[role].to(torch.float32).reshape(()) for role in ("alpha", "input_scale")
    )
    return alpha * of_input


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop): codes times the scale of their block times 1 / g."""
    from ...kernels import bits, ops

    codes = bits.swap_nibbles(tensors["weight"][start:stop])
    return ops.dequantize_nvfp4(codes, scale_rows(tensors, start, stop), scale_2(tensors))


def restate(tensors: Tensors, settings: Settings, start: int, stop: int) -> dict[str, torch.Tensor]:
    """The halves of each byte changed over, 1 / g in the place of g."""
    from torch.nn import functional

    from ...kernels import bits
    from ...kernels.tiles import tiled, untiled

    codes = bits.swap_nibbles(tensors["weight"][start:stop])
    count, blocks = codes.shape[0], codes.shape[1] // 8
    return {
        "weight": functional.pad(codes, (0, 0, 0, -count % 16)),
        "scale": tiled(untiled(scale_rows(tensors, start, stop), count, blocks)),
        "scale_2": scale_2(tensors),
        **input_scale(tensors, settings),
    }


CODEC = Codec(
    name="lightx2v_nvfp4",
    title="NVFP4 of LightX2V",
    whose="LightX2V",
    bits=4.5,
    rows=rows,
    row_step=ROWS,
    home=lambda settings: "nvfp4",
    restate=restate,
)
