"""An fp8 dtype in, the functions of a scheme with such codes and one scale for all of them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..scheme import Piece
from ._storage import full_precision, row_scale, weight_and_scale

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors

    Quantize = Callable[..., dict[str, torch.Tensor]]


def pieces_of(codes: str) -> Callable[[int, int, str], dict[str, Piece]]:
    """{role: Piece} for codes of a dtype as files spell it: codes (n, k), one float32 scale."""

    def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
        return weight_and_scale(codes, n, k, ())

    return pieces


def quantize_to(dtype_name: str) -> Quantize:
    """scale = max(amax / largest code, 1e-30); weight (rows, k) -> codes (rows, k), scale ()."""

    def quantize(
        weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
    ) -> dict[str, torch.Tensor]:
        import torch

        from ...kernels import ops

        codes, scale = ops.quantize_fp8(weight, whole, getattr(torch, dtype_name))
        return {"weight": codes, "scale": scale}

    return quantize


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
    """x in fp8 by the file's `input_scale` or a dynamic one; as it is if the file says so."""
    from ...kernels import ops

    scale = row_scale(tensors) if "scale" in tensors else None
    if full_precision(settings):
        return ops.fp8_weight_only_linear(x, tensors["weight"], scale, bias)
    return ops.fp8_linear(x, tensors["weight"], scale, bias, tensors.get("input_scale"))
