"""bitsandbytes' int8 rows in, numbers out: w = q * SCB / 127; q int8 (n, k), SCB float32 (n)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import Codec

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors


def restate(tensors: Tensors, settings: Settings, start: int, stop: int) -> dict[str, torch.Tensor]:
    """The same codes with the scale SCB / 127."""
    import torch

    scale = tensors["scale"].reshape(-1)[start:stop].to(torch.float32) / 127
    return {"weight": tensors["weight"][start:stop], "scale": scale.reshape(-1, 1)}


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop)."""
    import torch

    pieces = restate(tensors, settings, start, stop)
    return pieces["weight"].to(torch.float32) * pieces["scale"]


CODEC = Codec(
    name="bitsandbytes_int8",
    title="INT8, the largest magnitude of each row",
    whose="bitsandbytes",
    bits=8,
    rows=rows,
    home=lambda settings: "int8_weight_only",
    restate=restate,
)
