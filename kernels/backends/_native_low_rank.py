"""Claims on linears in, the same with a low-rank branch out: one more product, added in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn import functional

from ..registry import Claim

Tensor = torch.Tensor
LINEARS = ("int8_linear", "fp8_row_linear", "fp8_block128_linear", "int4_linear")
ROUNDED_TWICE = 0.003  # the linear's own result is rounded to x's dtype before the branch


def branched(linear: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`linear` -> y = linear(x) + (x down.T) up.T, with sums in float32 inside each product."""

    def run(x: Tensor, down: Tensor, up: Tensor, **more: Any) -> Tensor:
        return torch.addmm(linear(x=x, **more), functional.linear(x, down), up.t())

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
