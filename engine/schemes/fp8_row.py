"""A weight in, e4m3 codes and one scale for each output row out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..scheme import Piece, Row, Scheme
from ._storage import full_precision, row_scale, weight_and_scale

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors


def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
    """{role: Piece}: codes F8_E4M3 (n, k), float32 scale (n)."""
    return weight_and_scale("F8_E4M3", n, k, (n,))


def quantize(
    weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
) -> dict[str, torch.Tensor]:
    """scale = max(row amax, 1e-5) / 448; weight (rows, k) -> codes (rows, k), scale (rows)."""
    from ...kernels import ops

    codes, scale = ops.quantize_fp8_row(weight)
    return {"weight": codes, "scale": scale.reshape(-1)}


def dequantize(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """codes * scale -> (rows, k) float32."""
    from ...kernels import ops

    return ops.dequantize_fp8(tensors["weight"], row_scale(tensors))


def linear(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x e4m3 with one scale per token; as it is if the file says so."""
    from ...kernels import ops

    run = ops.fp8_weight_only_linear if full_precision(settings) else ops.fp8_row_linear
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

    return ops.fp8_row_low_rank_linear(x, tensors["weight"], row_scale(tensors), down, up, bias)


SCHEME = Scheme(
    name="fp8_row",
    title="FP8 e4m3, one scale per output row",
    bits=8,
    granularity=Row(),
    format_id="float8_e4m3fn_rowwise",
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    branched=branched,
    worst_error=0.03,
    core_reads="no: our loader",
    aliases={
        "fp8-vllm": "vllm",
        "fp8-sgl": "sgl",
        "fp8-q8f": "q8f",
        "fp8-torchao": "torchao",
        "fp8-triton": "triton",
    },
)
