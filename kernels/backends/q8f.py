"""int8 and fp8 with a scale a row by q8_kernels, made for RTX 40."""

from __future__ import annotations

import torch

from ..registry import SIGNATURE, Backend
from ._library import Library, on_card, quantized, rows

Tensor = torch.Tensor
Q8F = Library("q8_kernels", "q8_kernels.functional.linear")


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N); both sides come quantized, so nothing is rotated."""
    return _product("q8_linear", torch.int8, x, weight, bias, scale)


def fp8_row_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) e4m3 -> (M, N)."""
    return _product("fp8_linear", torch.float8_e4m3fn, x, weight, bias, scale)


def _product(
    name: str, dtype: torch.dtype, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor
) -> Tensor:
    """Scales are plain vectors and a bias is float32 there; some versions add a dimension."""
    codes, sx = quantized(x, dtype)
    added = None if bias is None else bias.to(torch.float32)
    made: Tensor = Q8F.get(name)(
        codes, weight, added, sx.reshape(-1), rows(scale, weight).reshape(-1), out_dtype=x.dtype
    )
    return made.reshape(x.shape[0], weight.shape[0])


BACKEND = Backend(
    name="q8f",
    title="q8_kernels",
    order=74,
    available=Q8F.refusal,
    proven=SIGNATURE,
    claims=(
        on_card("int8_linear", int8_linear, 0.015, (8, 9)),
        on_card("fp8_row_linear", fp8_row_linear, 0.03, (8, 9)),
    ),
)
