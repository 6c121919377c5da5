"""torch's own products that only a card has: block scales, packed four bits, and AMD's and Apple's.

Each claim asks for a trial product on the device, so a torch without the kernel is a refusal.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from .. import bits
from ..constraints import Among, AtMost, Capability, Constraint, Dtypes, Hip, MultipleOf, On
from ..registry import Claim
from ._trial import tried

Tensor = torch.Tensor
FEW_ROWS = 16  # beyond them, widening the weight once costs less than reading codes again


def fp8_block128_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) e4m3 of whole tiles -> (M, N) by cuBLAS's block scales (Hopper, CUDA 12.9).

    It wants x's scales (M, K / 128) with M next to M and in fours, the weight's (N / 128, L) with
    L = K / 128 filled up to a multiple of 4, seen from the other side.
    """
    rows, k = x.shape
    filled = functional.pad(x, (0, 0, 0, -rows % 4)) if rows % 4 else x
    runs = filled.to(torch.float32).view(-1, k // 128, 128)
    sx = runs.abs().amax(dim=-1).clamp_(min=1e-10).div_(448.0)
    codes = (runs / sx.unsqueeze(-1)).clamp_(-448.0, 448.0).to(torch.float8_e4m3fn).view(-1, k)
    kinds = functional.ScalingType
    result: Tensor = functional.scaled_mm(
        codes,
        weight.t(),
        sx.t().contiguous().t(),
        kinds.BlockWise1x128,
        functional.pad(scale, (0, -scale.shape[1] % 4)).contiguous().t(),
        kinds.BlockWise128x128,
        output_dtype=torch.bfloat16,
    )[:rows]
    return _with_bias(result, bias, x.dtype)


def int4_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    zeros: Tensor | None,
    group_size: int,
) -> Tensor:
    """(M, K), (N, K / 2) -> (M, N) by torch's packed product, whose formula is ours.

    It wants even inputs in the high nibble, its own order of tiles (made here: a pass over a
    quarter of bf16's bytes) and (K / group_size, N, 2) bf16 of scale and zero.
    """
    swapped = bits.swap_nibbles(weight.view(torch.uint8))
    packed = torch._convert_weight_to_int4pack(swapped, 8 if x.shape[1] % 128 == 0 else 2)
    zero = torch.zeros_like(scale) if zeros is None else zeros
    pairs = torch.stack((scale, zero), dim=-1).to(torch.bfloat16).contiguous()
    result = torch._weight_int4pack_mm(x, packed, group_size, pairs)
    return _with_bias(result, bias, x.dtype)


def int8_weight_only_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor
) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N) by torch's packed product; one scale an output."""
    rows = scale.expand(weight.shape[0], 1).reshape(-1).to(x.dtype).contiguous()
    return _with_bias(torch._weight_int8pack_mm(x, weight, rows), bias, x.dtype)


def _with_bias(result: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    if bias is None:
        return result.to(dtype)
    return result.to(torch.float32).add_(bias.to(torch.float32)).to(dtype)


_FLOATS = Dtypes((torch.bfloat16, torch.float16, torch.float32))
_HALVES = Dtypes((torch.bfloat16, torch.float16))
_BF16 = Dtypes((torch.bfloat16,))
_TILES = (MultipleOf(0, 128), MultipleOf(1, 128))
_MATRIX_CORES = Hip(("gfx90a", "gfx94", "gfx950", "gfx11", "gfx12"))
_FP8_CORES = Hip(("gfx950", "gfx12"))  # older ones have another e4m3, without torch's codes

# asked before the claims that widen the weight
CLAIMS = (
    Claim(
        "fp8_block128_linear",
        fp8_block128_linear,
        {
            "weight": _TILES,
            "x": (
                Capability((9, 0)), _HALVES,
                tried("fp8_block128_linear", fp8_block128_linear, 0.03),
            ),
        },
        error=0.03,
    ),
    Claim(
        "int4_linear",
        int4_linear,
        {
            "group_size": (Among((32, 64, 128, 256)),),
            "weight": (MultipleOf(0, 8), MultipleOf(1, 16)),
            "x": (
                Capability((8, 0)), _BF16, AtMost(0, FEW_ROWS),
                tried("int4_linear", int4_linear, 0.006),
            ),
        },
        error=0.006,
    ),
    Claim(
        "int8_weight_only_linear",
        int8_weight_only_linear,
        {
            "weight": (MultipleOf(0, 32), MultipleOf(1, 32)),
            "x": (
                On(("mps",)), _BF16, AtMost(0, FEW_ROWS),
                tried("int8_weight_only_linear", int8_weight_only_linear, 0.006),
            ),
        },
        error=0.006,
    ),
)  # fmt: skip


def on_nvidia(op: str, run: Callable[..., Tensor], error: float) -> Claim:
    """A claim of torch_native's on a product of int8 codes, after a trial: Turing takes fewer."""
    return Claim(op, run, {"x": (Capability((7, 5)), _FLOATS, tried(op, run, error))}, error=error)


def on_amd(
    op: str,
    run: Callable[..., Tensor],
    error: float,
    fp8: bool = False,
    **needs: tuple[Constraint, ...],
) -> Claim:
    """A claim of torch_native's on what AMD's matrix cores take, after a trial product."""
    cores = _FP8_CORES if fp8 else _MATRIX_CORES
    x = (cores, _HALVES if fp8 else _FLOATS, tried(op, run, error))
    return Claim(op, run, {**needs, "x": x}, error=error)
