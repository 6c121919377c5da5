"""int8 and fp8 with a scale a row by SGLang's kernels."""

from __future__ import annotations

import torch

from ..registry import SIGNATURE, Backend
from ._library import Library, halves_bias, on_card, quantized, rows

Tensor = torch.Tensor
SGL = Library("sgl-kernel", "sgl_kernel")


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N); SGLang has no quantizer to int8 rows."""
    codes, sx = quantized(x, torch.int8)
    made: Tensor = SGL.get("int8_scaled_mm")(
        codes, weight.t(), sx, rows(scale, weight), x.dtype, bias=halves_bias(bias, x)
    )
    return made


def fp8_row_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) e4m3 -> (M, N)."""
    codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    sx = torch.empty((x.shape[0], 1), dtype=torch.float32, device=x.device)
    SGL.get("sgl_per_token_quant_fp8")(x, codes, sx)
    made: Tensor = SGL.get("fp8_scaled_mm")(
        codes, weight.t(), sx, rows(scale, weight), x.dtype, bias=halves_bias(bias, x)
    )
    return made


BACKEND = Backend(
    name="sgl",
    title="SGLang's kernels",
    order=72,
    available=SGL.refusal,
    proven=SIGNATURE,
    claims=(
        on_card("int8_linear", int8_linear, 0.015, (7, 5)),
        on_card("fp8_row_linear", fp8_row_linear, 0.03, (8, 9)),
    ),
)
