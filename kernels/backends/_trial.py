"""A linear of a backend in, one small product on the device out: the reference's, or the reason.

What was never run on a card here proves itself on the user's before it is trusted: the first call
of an op multiplies 32 x 256 by 256 x 128 and compares.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from ..constraints import Probe
from . import reference

Tensor = torch.Tensor
Run = Callable[..., Tensor]
# what a missing, changed or unsupported kernel raises
FAULTS = (RuntimeError, TypeError, ValueError, AttributeError, ImportError, AssertionError)

ROWS, OUTPUTS, INPUTS, RANK = 32, 128, 256, 16
Maker = Callable[[Tensor], dict[str, Any]]


def _int4(weight: Tensor) -> dict[str, Any]:
    codes, scale = reference.quantize_int4(weight, 128, torch.bfloat16)
    zeros = torch.zeros_like(scale)
    return {"weight": codes, "scale": scale, "zeros": zeros, "group_size": 128}


def _scaled(quantize: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Maker:
    return lambda weight: dict(zip(("weight", "scale"), quantize(weight), strict=True))


# op: how its weight is made, and the reference's own linear
_CASES: dict[str, tuple[Maker, Run]] = {
    "int8_linear": (_scaled(reference.quantize_int8), reference.int8_linear),
    "int8_weight_only_linear": (
        _scaled(reference.quantize_int8),
        reference.int8_weight_only_linear,
    ),
    "fp8_row_linear": (_scaled(reference.quantize_fp8_row), reference.fp8_row_linear),
    "fp8_weight_only_linear": (
        _scaled(reference.quantize_fp8_row),
        reference.fp8_weight_only_linear,
    ),
    "fp8_block128_linear": (
        _scaled(reference.quantize_fp8_block128),
        reference.fp8_block128_linear,
    ),
    "int4_linear": (_int4, reference.int4_linear),
}


def tried(op: str, run: Run, error: float) -> Probe:
    """The rule that `run` has once computed `op` on x's device, within twice its bound."""
    return Probe("a trial product", lambda device: refusal(op, run, error, device))


@cache
def refusal(op: str, run: Run, error: float, device: torch.device) -> str | None:
    """None, or why `run` cannot be used for `op` on the device. Asked once for each device."""
    make, right = _CASES[op]
    source = torch.Generator().manual_seed(5)
    weight = torch.randn((OUTPUTS, INPUTS), generator=source).to(device)
    x = torch.randn((ROWS, INPUTS), generator=source).to(device, torch.bfloat16)
    bias = torch.randn((OUTPUTS,), generator=source).to(device, torch.bfloat16)
    call = {"x": x, "bias": bias, **make(weight)}
    want = right(**call).to(torch.float32)
    try:
        got = run(**call).to(torch.float32)
    except FAULTS as fault:
        told = f"{type(fault).__name__}: {fault}".splitlines()[0]
        return f"failed on a trial product: {told[:200]}"
    if bool((got - want).norm() <= 2 * error * want.norm()):
        return None
    return "gave a wrong trial product"
