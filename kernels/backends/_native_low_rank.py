"""Claims on linears in, the same with a low-rank branch out: one more product, added in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn import functional

from ..constraints import Dtypes, On
from ..registry import Claim
from ._by_rows import compute_dtype

Tensor = torch.Tensor
LINEARS = ("int8_linear", "fp8_row_linear", "fp8_block128_linear", "int4_linear")
RUN_ELEMENTS = 1 << 20
ROUNDED_TWICE = 0.003  # the linear's own result is rounded to x's dtype before the branch


def add_low_rank(x: Tensor, y: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """(M, K), (M, N), (R, K), (N, R) -> y with the branch in it.

    A CPU without units for x's dtype multiplies in float32, in runs of rows that stay in a cache.
    """
    if x.device.type != "cpu" or compute_dtype("cpu", x.dtype) == x.dtype:
        return y.addmm_(functional.linear(x, down), up.t())
    inner, outer = down.to(torch.float32), up.to(torch.float32).t()
    step = max(32, RUN_ELEMENTS // max(x.shape[1], y.shape[1]))
    for start in range(0, x.shape[0], step):
        middle = functional.linear(x[start : start + step].to(torch.float32), inner)
        part = y[start : start + step]
        part.copy_(torch.addmm(part.to(torch.float32), middle, outer))
    return y


def branched(linear: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`linear` -> y = linear(x) + (x down.T) up.T, with sums in float32 inside each product."""

    def run(x: Tensor, down: Tensor, up: Tensor, **more: Any) -> Tensor:
        return add_low_rank(x, linear(x=x, **more), down, up)

    return run


def low_rank_claims(claims: Iterable[Claim]) -> tuple[Claim, ...]:
    """For each claim on one of LINEARS the claim with a branch, which asks for the same."""
    return tuple(
        Claim(
            claim.op.replace("_linear", "_low_rank_linear"),
            branched(claim.run),
            claim.needs,
            claim.order,
            None if claim.error is None else claim.error + ROUNDED_TWICE,
        )
        for claim in claims
        if claim.op in LINEARS
    )


_FLOATS = Dtypes((torch.bfloat16, torch.float16, torch.float32))
ADDED = Claim(
    "add_low_rank", add_low_rank, {"x": (On(("cpu", "cuda", "mps", "xpu")), _FLOATS)}, error=0.006
)
