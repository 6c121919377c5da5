"""A weight in, int8 codes per output row out; the activations stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..scheme import Piece, Row, Scheme
from ._storage import row_scale, weight_and_scale

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors


def config(n: int, k: int) -> Mapping[str, object]:
    """Asks core for activations that stay as they are; core 0.33 quantizes them all the same."""
    return {"full_precision_matrix_mult": True}


def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
    """{role: Piece}: codes I8 (n, k), float32 scale (n, 1)."""
    return weight_and_scale("I8", n, k, (n, 1))


def quantize(
    weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
) -> dict[str, torch.Tensor]:
    """scale = max(row amax / 127, 1e-30); weight (rows, k) -> codes (rows, k), scale (rows, 1)."""
    from ...kernels import ops

    codes, scale = ops.quantize_int8(weight)
    return {"weight": codes, "scale": scale}


def dequantize(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """codes * scale -> (rows, k) float32."""
    from ...kernels import ops

    return ops.dequantize_int8(tensors["weight"], row_scale(tensors))


def linear(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x as it is, times the dequantized weight."""
    from ...kernels import ops

    return ops.int8_weight_only_linear(x, tensors["weight"], row_scale(tensors), bias)


SCHEME = Scheme(
    name="int8_weight_only",
    title="INT8 weights, activations as they are",
    bits=8,
    granularity=Row(),
    format_id="int8_tensorwise",
    config=config,
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    worst_error=0.012,
    aliases={
        "8-bit": None,
        "8bit": None,
        "qint8": "quanto",
        "quanto-qint8": "quanto",
        "bitsandbytes-8-bit": None,
    },
)
