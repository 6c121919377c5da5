"""int8 with a scale a row by torchao's scaled integer product, on a CPU too."""

from __future__ import annotations

import torch

from ..constraints import Capability, Dtypes, On
from ..registry import Backend, Claim
from ._library import Library, quantized
from ._trial import tried

Tensor = torch.Tensor
TORCHAO = Library("torchao", "torchao.kernel", card=False)


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N): it scales by rows of x, the rest is added in float32."""
    codes, sx = quantized(x, torch.int8)
    sums: Tensor = TORCHAO.get("int_scaled_matmul")(codes, weight.t(), sx)
    values = sums.to(torch.float32) * scale.reshape(1, -1)
    if bias is not None:
        values += bias.to(torch.float32)
    return values.to(x.dtype)


_TRIED = tried("int8_linear", int8_linear, 0.015)
_FLOATS = Dtypes((torch.bfloat16, torch.float16, torch.float32))

BACKEND = Backend(
    name="torchao",
    title="torchao's integer product",
    order=90,
    available=TORCHAO.refusal,
    claims=(
        Claim("int8_linear", int8_linear, {"x": (On(("cpu",)), _FLOATS, _TRIED)}, error=0.015),
        Claim(
            "int8_linear", int8_linear, {"x": (Capability((7, 5)), _FLOATS, _TRIED)}, error=0.015
        ),
    ),
)
