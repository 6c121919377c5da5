"""A weight in, the same numbers in the source's dtype out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..scheme import Piece, Scheme, Tensor

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors


def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
    """{role: Piece}: the weight itself in `dtype`."""
    return {"weight": Piece(".weight", dtype, (n, k))}


def quantize(
    weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
) -> dict[str, torch.Tensor]:
    """The weight in `dtype`: (rows, k) -> (rows, k)."""
    from ..tensors import torch_dtype

    return {"weight": weight.to(torch_dtype(dtype))}


def dequantize(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """The weight in float32."""
    import torch

    return tensors["weight"].to(torch.float32)


def linear(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """y = x w.T + bias."""
    from ...kernels import ops

    return ops.linear(x, tensors["weight"], bias)


SCHEME = Scheme(
    name="none",
    title="Not quantized: the source's dtype",
    bits=16,
    granularity=Tensor(),
    format_id=None,
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    worst_error=0.004,
    row_axis={"weight": 0},
    aliases={"bf16": None, "bf16-original": None, "original": None},
)
