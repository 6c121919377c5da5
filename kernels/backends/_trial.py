"""A linear of a backend in, one small product on the device out: the reference's, or the reason.

What was never run on a card here proves itself on the user's before it is trusted: the first call
of an op multiplies 544 x 384 by 384 x 256 and compares (32 rows on a CPU). From 513 rows on our
kernels take their largest tiles, which ask the most of a card. Rows and columns of the weight
differ in size by up to 16 times, so that scales in a wrong order do not pass.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from ..constraints import Probe
from . import _reference_fused, _reference_rotated, reference

Tensor = torch.Tensor
Run = Callable[..., Tensor]
# what a missing, changed or unsupported kernel raises, or a compiler that is not there
FAULTS = (
    RuntimeError, TypeError, ValueError, AttributeError, ImportError, AssertionError, OSError,
    subprocess.SubprocessError,
)  # fmt: skip
# a card that is full says nothing about a kernel: the host makes room and calls again
FULL = torch.cuda.OutOfMemoryError

ROWS, CPU_ROWS, OUTPUTS, INPUTS = 544, 32, 256, 384
LAST_BITS, SAME_CODES = 3e-7, 0.99
Maker = Callable[[Tensor], dict[str, Any]]


def _int4(weight: Tensor) -> dict[str, Any]:
    codes, scale = reference.quantize_int4(weight, 128, torch.bfloat16)
    zeros = torch.zeros_like(scale)
    return {"weight": codes, "scale": scale, "zeros": zeros, "group_size": 128}


def _fp8(weight: Tensor) -> dict[str, Any]:
    codes, scale = reference.quantize_fp8(weight, reference.amax(weight), torch.float8_e4m3fn)
    return {"weight": codes, "scale": scale, "input_scale": None}


def _convrot(weight: Tensor) -> dict[str, Any]:
    codes, scale = reference.quantize_int8_convrot(weight, 64)
    return {"weight": codes, "scale": scale, "group_size": 64}


def _w4a4(weight: Tensor) -> dict[str, Any]:
    codes, scale = _reference_rotated.quantize_w4a4(weight, 64)
    return {"weight": codes, "scale": scale[:, None], "group_size": 64, "input_bits": 8}


def _w4a8(weight: Tensor) -> dict[str, Any]:
    codebook = _reference_rotated.w4a8_codebook(weight, 16, 64)
    codes, scale, channel = _reference_rotated.quantize_w4a8(weight, codebook, 16, 64)
    more = {"channel": channel[:, None], "codebook": codebook, "rotation": 64}
    return {"weight": codes, "scale": scale, **more}


def _scaled(quantize: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Maker:
    return lambda weight: dict(zip(("weight", "scale"), quantize(weight), strict=True))


# op: how its weight is made, and the reference's own linear
_CASES: dict[str, tuple[Maker, Run]] = {
    "int8_linear": (_scaled(reference.quantize_int8), reference.int8_linear),
    "int8_convrot_linear": (_convrot, reference.int8_convrot_linear),
    "fp8_linear": (_fp8, reference.fp8_linear),
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
    "w4a4_linear": (_w4a4, _reference_rotated.w4a4_linear),
    "w4a8_linear": (_w4a8, _reference_rotated.w4a8_linear),
}


def tried(op: str, run: Run, error: float, dtype: torch.dtype = torch.bfloat16) -> Probe:
    """The rule that `run` has once computed `op` on x's device, within twice its bound.

    `dtype` is x's in the trial, one that `run` is for.
    """
    return Probe("a trial product", lambda device: refusal(op, run, error, device, dtype))


@cache
def refusal(
    op: str, run: Run, error: float, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> str | None:
    """None, or why `run` cannot be used for `op` on the device. Asked once for each device."""
    make, right = _CASES[op]
    source = torch.Generator().manual_seed(5)
    weight = torch.randn((OUTPUTS, INPUTS), generator=source)
    weight *= torch.logspace(-2, 2, OUTPUTS, 2.0)[:, None] * torch.logspace(-1, 1, INPUTS, 4.0)
    rows = CPU_ROWS if device.type == "cpu" else ROWS
    x = torch.randn((rows, INPUTS), generator=source).to(device, dtype)
    bias = torch.randn((OUTPUTS,), generator=source).to(device, dtype)
    call = {"x": x, "bias": bias, **make(weight.to(device))}
    want = right(**call).to(torch.float32)
    try:
        got = run(**call).to(torch.float32)
    except FULL:
        raise
    except FAULTS as fault:
        return f"failed on a trial product: {_told(fault)}"
    if bool((got - want).norm() <= 2 * error * want.norm()):
        return None
    return "gave a wrong trial product"


@cache
def quantizer_refusal(
    run: Callable[..., tuple[Tensor, Tensor]], device: torch.device
) -> str | None:
    """None, or why `run`, a `quantize_activations`, is not the reference's on the device.

    On a card torch divides by a plain number as a product with its reciprocal: scales may differ in
    their last bit, and a number between two codes may then take the other one.
    """
    x = torch.randn((5, 256), generator=torch.Generator().manual_seed(5)).to(device)
    for dtype, group_size in (
        (torch.int8, 0),
        (torch.float8_e4m3fn, 0),
        (torch.float8_e4m3fn, 128),
    ):
        call = (x, dtype, group_size, "none", None, None, 0.0)
        codes, scale = _reference_fused.quantize_activations(*call)
        try:
            made, of_made = run(*call)
            near = torch.allclose(of_made, scale, rtol=LAST_BITS, atol=0.0)
            same = (made.to(torch.float32) == codes.to(torch.float32)).to(torch.float32).mean()
        except FULL:
            raise
        except FAULTS as fault:
            return f"failed on trial rows: {_told(fault)}"
        if not near or float(same) < SAME_CODES:
            return f"gave wrong trial rows of {dtype}"
    return None


@cache
def dequantizer_refusal(
    run: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, device: torch.device
) -> str | None:
    """None, or why `run` does not widen every code of `dtype` times its row's scale exactly."""
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(2, 128).to(device)
    scale = torch.tensor([[0.75], [3.0]], device=device)
    want = codes.to(torch.float32) * scale
    try:
        if torch.equal(run(codes, scale).nan_to_num(), want.nan_to_num()):
            return None
    except FULL:
        raise
    except FAULTS as fault:
        return f"failed on trial codes: {_told(fault)}"
    return f"gave wrong trial numbers of {dtype}"


def _told(fault: BaseException) -> str:
    return f"{type(fault).__name__}: {fault}".splitlines()[0][:200]
