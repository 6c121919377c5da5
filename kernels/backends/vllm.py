"""int8 and fp8 with a scale a row by vLLM's CUTLASS kernels, its own quantizing of x included."""

from __future__ import annotations

import torch

from ..registry import SIGNATURE, Backend
from ._library import Library, halves_bias, on_card, rows

Tensor = torch.Tensor
VLLM = Library("vllm", "vllm._custom_ops")


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N)."""
    codes, sx, _ = VLLM.get("scaled_int8_quant")(x, scale=None, azp=None, symmetric=True)
    return _product(codes, sx, x, weight, bias, scale)


def fp8_row_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) e4m3 -> (M, N)."""
    quantize = VLLM.get("scaled_fp8_quant")
    codes, sx = quantize(x, scale=None, scale_ub=None, use_per_token_if_dynamic=True)
    return _product(codes, sx, x, weight, bias, scale)


def _product(
    codes: Tensor, sx: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor
) -> Tensor:
    """The kernel reads the weight as (K, N) with K next to K: the transposed view."""
    made: Tensor = VLLM.get("cutlass_scaled_mm")(
        codes, weight.t(), sx, rows(scale, weight), x.dtype, halves_bias(bias, x)
    )
    return made


BACKEND = Backend(
    name="vllm",
    title="vLLM's CUTLASS kernels",
    order=70,
    available=VLLM.refusal,
    proven=SIGNATURE,
    claims=(
        on_card("int8_linear", int8_linear, 0.015, (7, 5)),
        on_card("fp8_row_linear", fp8_row_linear, 0.03, (8, 9)),
    ),
)
