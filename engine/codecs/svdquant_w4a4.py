"""comfy-quants' and Nunchaku's SVDQuant in comfy-kitchen's layouts in, the full weight out.

A layer computes y = (x / smooth) (q s).T + (x down) up.T + bias; for activations in full precision
that is x w.T + bias with w = q s / smooth + up down.T, which is what the rows are. Where the file
says that the low-rank branch reads the smoothed input, w = (q s + up down.T) / smooth. q 4 bits
signed, s for each 64 inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import Codec
from ._svdquant import smoothed, tiled_rows

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop) of the full weight."""
    import torch

    smooth, up = tensors["smooth"], tensors["up"]
    codes = smoothed(tensors["weight"], tensors["scale"], smooth, start, stop)
    chosen = tiled_rows(up, start, stop) if up.dim() == 3 else up[start:stop].to(torch.float32)
    branch = chosen @ tensors["down"].to(torch.float32).t()
    if settings["smoothed_branch"]:
        branch /= smooth.reshape(-1).to(torch.float32)
    return codes + branch


CODEC = Codec(
    name="svdquant_w4a4",
    title="INT4 beside a low-rank branch",
    whose="comfy-quants",
    bits=5,
    rows=rows,
)
