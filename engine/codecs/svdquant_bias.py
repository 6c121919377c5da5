"""The bias of an SVDQuant layer with unsigned activations in, the bias of the full weight out.

Such a layer adds 0.171875 (below GELU's least value) to the input of its 4-bit branch, so that no
activation is negative, and its bias makes up for that:
y = ((x + 0.171875) / smooth) (q s).T + (x down) up.T + bias
  = x w.T + bias + 0.171875 * sum over the inputs of q s / smooth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import Codec
from ._svdquant import smoothed

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors

SHIFT = 0.171875


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Entries [start, stop) as (stop - start, 1)."""
    import torch

    codes = smoothed(tensors["codes"], tensors["scale"], tensors["smooth"], start, stop)
    bias = tensors["weight"][start:stop].to(torch.float32)
    return (bias + SHIFT * codes.sum(1)).unsqueeze(1)


CODEC = Codec(
    name="svdquant_bias",
    title="bias of a shifted input",
    whose="comfy-quants",
    bits=16,
    rows=rows,
)
