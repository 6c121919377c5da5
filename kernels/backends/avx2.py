"""int8 products on an x86 CPU with AVX2 and no int8 units, by a loop of ours that is built once.

oneDNN's sums overflow there, and torch's `_int_mm` is a plain loop. Building takes seconds and a
C++ compiler; without one torch_native multiplies the same codes in float32. The weight stays in its
rows, so the pages of a mapped file are all that it takes.
"""

from __future__ import annotations

from functools import cache

import torch

from .. import cpu, cpu_kernels
from ..constraints import AtLeast, AtMost, CpuUnits, Dtypes, MultipleOf, Probe
from ..registry import Backend, Claim
from .onednn import Product, linear_by
from .torch_native import rotate_groups

Tensor = torch.Tensor
UNITS = ("avx2",)
# a smaller layer is over before building pays
LEAST = 1024
MOST_INPUTS = (2**31 - 1) // 127**2  # of codes to -127: sums stay in 32 bits


def available() -> str | None:
    """None, or why the loop is not for this processor, or cannot be built."""
    if not cpu.is_x86() or not cpu.features().intersection(UNITS):
        return "it is for x86 processors with AVX2"
    if cpu.features().intersection(cpu.INT8_UNITS):
        return "this CPU has int8 units: onednn uses them"
    return cpu_kernels.why_not()


def product(weight: Tensor, scale: Tensor) -> Product:
    """int8 (N, K) and its scale () or (N, 1) -> what multiplies int8 (M, K) into float32 (M, N)."""
    columns = scale.reshape(-1).expand(weight.shape[0]).contiguous()
    return lambda codes: cpu_kernels.int8_product(codes, weight, columns)


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N)."""
    return linear_by(product(weight, scale), x, weight.shape[0], bias, x.dtype)


def int8_convrot_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), (N, K) int8 of a rotated weight -> (M, N)."""
    turned = rotate_groups(x, group_size)
    return linear_by(product(weight, scale), turned, weight.shape[0], bias, x.dtype)


@cache
def refusal(device: torch.device) -> str | None:
    """Build the loop and multiply once: None, or why it cannot be used on this machine."""
    rows, outputs, inputs = 9, 48, 1040  # a tile, a pair and a row; two runs of inputs, one short
    source = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randint(-128, 128, (size, inputs), generator=source).to(torch.int8)
        for size in (rows, outputs)
    )
    weight[0], x[0] = -128, -128  # the largest sums of two
    scale = torch.rand(outputs, generator=source)
    exact = (x.to(torch.float64) @ weight.to(torch.float64).t()).to(torch.float32) * scale
    try:
        found = cpu_kernels.int8_product(x, weight, scale)
    except cpu_kernels.FAULTS as fault:
        told = str(fault).splitlines() or [""]
        return f"the loop cannot be built: {type(fault).__name__}: {told[0][:200]}"
    return None if torch.equal(found, exact) else "a trial product came out wrong"


_X = (
    CpuUnits(UNITS),
    Dtypes((torch.bfloat16, torch.float16, torch.float32)),
)
_WEIGHT = (
    Dtypes((torch.int8,)),
    MultipleOf(0, 16),
    MultipleOf(1, 16),
    AtLeast(0, LEAST),
    AtLeast(1, LEAST),
    AtMost(1, MOST_INPUTS),
    Probe("a trial product", refusal),
)
_NEEDS = {"x": _X, "weight": _WEIGHT}

BACKEND = Backend(
    name="avx2",
    title="our own int8 loop for AVX2",
    order=16,
    available=available,
    claims=(
        Claim("int8_linear", int8_linear, _NEEDS, error=0.015),
        Claim("int8_convrot_linear", int8_convrot_linear, _NEEDS, error=0.015),
    ),
)
