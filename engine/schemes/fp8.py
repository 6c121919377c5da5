"""A weight in, e4m3 codes and one scale for all of it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..scheme import Piece, Scheme, Tensor
from ._storage import full_precision, row_scale, weight_and_scale

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors


def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
    """{role: Piece}: codes F8_E4M3 (n, k), one float32 scale."""
    return weight_and_scale("F8_E4M3", n, k, ())


def quantize(
    weight: torch.Tensor, amax: torch.Tensor | None = None, dtype: str = "BF16"
) -> dict[str, torch.Tensor]:
    """scale = max(amax / 448, 1e-30); weight (rows, k) -> codes (rows, k), scale ()."""
    import torch

    from ...kernels import ops

    codes, scale = ops.quantize_fp8(weight, amax, torch.float8_e4m3fn)
    return {"weight": codes, "scale": scale}


def dequantize(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """codes * scale -> (rows, k) float32; a bare fp8 weight without a scale has scale 1."""
    from ...kernels import ops

    return ops.dequantize_fp8(tensors["weight"], row_scale(tensors) if "scale" in tensors else None)


def linear(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x e4m3 by the file's `input_scale` or a dynamic one; as it is if the file says so."""
    from ...kernels import ops

    scale = row_scale(tensors) if "scale" in tensors else None
    if full_precision(settings):
        return ops.fp8_weight_only_linear(x, tensors["weight"], scale, bias)
    return ops.fp8_linear(x, tensors["weight"], scale, bias, tensors.get("input_scale"))


SCHEME = Scheme(
    name="fp8",
    title="FP8 e4m3, one scale per tensor",
    bits=8,
    granularity=Tensor(),
    format_id="float8_e4m3fn",
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    worst_error=0.03,
    row_axis={"weight": 0},
    static_inputs=True,
    aliases={"fp8-scaled": None, "diffsynth-fp8": None, "fp8-e4m3": None, "float8-e4m3fn": None},
)
