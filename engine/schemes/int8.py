"""A weight in, int8 codes and one scale for each output row out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..scheme import Piece, Row, Scheme
from ._storage import full_precision, row_scale, weight_and_scale

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors


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
    """x int8 with one scale per token; as it is if the file says so."""
    from ...kernels import ops

    run = ops.int8_weight_only_linear if full_precision(settings) else ops.int8_linear
    return run(x, tensors["weight"], row_scale(tensors), bias)


def branched(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None,
    down: torch.Tensor,
    up: torch.Tensor,
) -> torch.Tensor:
    """`linear` with a low-rank branch."""
    from ...kernels import ops

    return ops.int8_low_rank_linear(x, tensors["weight"], row_scale(tensors), down, up, bias)


SCHEME = Scheme(
    name="int8",
    title="INT8, one scale per output row",
    bits=8,
    granularity=Row(),
    format_id="int8_tensorwise",
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    branched=branched,
    worst_error=0.012,
    aliases={
        "int8-vllm": "vllm",
        "int8-sgl": "sgl",
        "int8-q8f": "q8f",
        "int8-torchao": "torchao",
        "int8-triton": "triton",
        "int8-tensorwise": None,
    },
)
