"""int8 weights beside x as it is by optimum-quanto's operator; it packs on CPUs and on Apple."""

from __future__ import annotations

import importlib

import torch

from ..constraints import Dtypes, On
from ..registry import Backend, Claim
from ._library import Library
from ._trial import tried

Tensor = torch.Tensor
QUANTO = Library("optimum-quanto", "optimum.quanto", card=False)
ALIGNED = 64  # its CPU kernel reads whole vectors; tensors from a file stand at any 8 bytes


def int8_weight_only_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor
) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N); the scale takes x's dtype there."""
    importlib.import_module(QUANTO.module)  # defines the operator
    codes = weight.clone() if weight.data_ptr() % ALIGNED else weight
    columns = scale.expand(weight.shape[0], 1).to(x.dtype).contiguous()
    made: Tensor = torch.ops.quanto.qbytes_mm(x, codes, columns)
    if bias is not None:
        made = made.to(torch.float32).add_(bias.to(torch.float32)).to(x.dtype)
    return made


_TRIED = tried("int8_weight_only_linear", int8_weight_only_linear, 0.006)
_BF16 = Dtypes((torch.bfloat16,))  # float16 sums overflow, and its scales lose digits

BACKEND = Backend(
    name="quanto",
    title="optimum-quanto's operator",
    order=92,
    available=QUANTO.refusal,
    claims=(
        Claim(
            "int8_weight_only_linear",
            int8_weight_only_linear,
            {"x": (On(("cpu", "cuda", "mps")), _BF16, _TRIED)},
            error=0.006,
        ),
    ),
)
