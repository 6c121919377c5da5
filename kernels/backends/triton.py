"""Our own Triton kernels: quantizing in one pass, products with block scales, int4 or a branch.

x is (M, K), a weight (N, K) or (N, K / 2). Nothing of Triton is imported before a call.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import functional

from ..constraints import Among, AtMost, Dtypes, Probe
from ..hadamard import hadamard
from ..registry import Backend, Claim
from ._integers import BLOCK_BYTES_ELSEWHERE, int_mm
from ._trial import dequantizer_refusal, quantizer_refusal, tried
from ._triton_device import OnTriton, available

Tensor = torch.Tensor
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def _kernels() -> Any:
    return importlib.import_module("..triton_kernels.operators", __package__).operators()


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) int8, (N, 1) float32."""
    return _rows(weight, torch.int8, 0, least_scale=1e-30)


def quantize_fp8_row(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) e4m3, (N, 1) float32."""
    return _rows(weight, E4M3, 0, least_amax=1e-5)


def quantize_activations(
    x: Tensor,
    dtype: torch.dtype,
    group_size: int,
    before: str,
    gain: Tensor | None,
    shift: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor]:
    """(M, K) -> codes (M, K), scales (M, groups), what stands before in the same pass."""
    grouped = dtype == E4M3 and group_size
    least = {"least_amax": 1e-10} if grouped else {"least_scale": 1e-30}
    return _rows(x, dtype, group_size, before, gain, shift, epsilon, **least)


def dequantize_int8(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) int8, () or (N, 1) -> (N, K) float32."""
    return _widened(weight, scale, torch.float32)


def dequantize_fp8(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) fp8, () or (N, 1) -> (N, K) float32."""
    return _widened(weight, scale, torch.float32)


def weight_only_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 or e4m3 -> (M, N): widened to x's dtype in one pass, then multiplied."""
    added = None if bias is None else bias.to(x.dtype)
    return functional.linear(x, _widened(weight, scale, x.dtype), added)


def int8_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    down: Tensor | None = None,
    up: Tensor | None = None,
) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N): exact int32 sums, the branch added to them."""
    codes, sx = quantize_int8(x)
    return _row_scaled(x, codes, weight, sx, scale, bias, down, up)


def int8_convrot_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), (N, K) int8 of a rotated weight -> (M, N); torch rotates x, a small product.

    The matrix is exact in bfloat16, and what rounding x once more adds is far below int8's own.
    """
    codes, sx = quantize_int8(_rotated(x, group_size))
    return _row_scaled(x, codes, weight, sx, scale, bias, None, None)


def int8_linear_by_torch(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N): torch's int8 product between two passes of ours."""
    return _by_torch(x, x, weight, bias, scale)


def int8_convrot_linear_by_torch(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), (N, K) int8 of a rotated weight -> (M, N)."""
    return _by_torch(x, _rotated(x, group_size), weight, bias, scale)


def fp8_row_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    down: Tensor | None = None,
    up: Tensor | None = None,
) -> Tensor:
    """(M, K), (N, K) e4m3 -> (M, N) on fp8 tensor cores."""
    codes, sx = _rows(x, E4M3, 0, least_scale=1e-30)
    return _row_scaled(x, codes, weight, sx, scale, bias, down, up)


def fp8_block128_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    down: Tensor | None = None,
    up: Tensor | None = None,
) -> Tensor:
    """(M, K), (N, K) e4m3 with a scale a tile -> (M, N); any sizes."""
    codes, sx = _rows(x, E4M3, 128, least_amax=1e-10)
    middle = _middle(x, down)
    made: Tensor = _kernels().block128(
        codes, weight, sx, scale.contiguous(), bias, middle, up, x.dtype
    )
    return made


def int4_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    zeros: Tensor | None,
    group_size: int,
    down: Tensor | None = None,
    up: Tensor | None = None,
) -> Tensor:
    """(M, K), (N, K / 2) -> (M, N); x as it is."""
    zero = None if zeros is None else zeros.contiguous()
    middle = _middle(x, down)
    made: Tensor = _kernels().int4(
        x, weight, scale.contiguous(), zero, bias, middle, up, group_size
    )
    return made


def _by_torch(
    x: Tensor, values: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor
) -> Tensor:
    """int32 sums of at most `BLOCK_BYTES_ELSEWHERE` at a time."""
    codes, sx = quantize_int8(values)
    step = max(32, BLOCK_BYTES_ELSEWHERE // (4 * weight.shape[0]))
    scale = scale.contiguous()
    parts = [
        _kernels().scale_sums(int_mm(rows, weight), of_rows, scale, bias, x.dtype)
        for rows, of_rows in zip(torch.split(codes, step), torch.split(sx, step), strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rotated(x: Tensor, group_size: int) -> Tensor:
    dtype = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32
    groups = x.to(dtype).view(-1, group_size)
    return functional.linear(groups, _rotation(group_size, x.device, dtype)).view(x.shape)


@cache
def _rotation(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return hadamard(size, device).to(dtype)


def _rows(
    x: Tensor,
    dtype: torch.dtype,
    group_size: int,
    before: str = "none",
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    epsilon: float = 0.0,
    least_amax: float = 0.0,
    least_scale: float = 0.0,
) -> tuple[Tensor, Tensor]:
    integer = dtype == torch.int8
    made: tuple[Tensor, Tensor] = _kernels().quantize_rows(
        x, gain, shift, integer, group_size, before, epsilon, least_amax, least_scale
    )
    return made


def _widened(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    values: Tensor = _kernels().dequantize_rows(weight, scale.contiguous(), dtype)
    return values


def _row_scaled(
    x: Tensor, codes: Tensor, weight: Tensor, sx: Tensor, scale: Tensor,
    bias: Tensor | None, down: Tensor | None, up: Tensor | None,
) -> Tensor:  # fmt: skip
    made: Tensor = _kernels().row_scaled(
        codes, weight, sx, scale.contiguous(), bias, _middle(x, down), up, x.dtype
    )
    return made


def _middle(x: Tensor, down: Tensor | None) -> Tensor | None:
    """The branch's narrow side (M, R); torch's own product is the fastest for it."""
    return None if down is None else functional.linear(x, down)


# Triton multiplies bf16 and int8 on tensor cores from sm_80; Turing falls to plain arithmetic.
# AMD's matrix units take OCP's e4m3 from gfx950 and RDNA 4 on.
_AMD = ("gfx90a", "gfx94", "gfx950", "gfx11", "gfx12")
_FP8_AMD = ("gfx950", "gfx12")
_ANY, _CORES = OnTriton((7, 5), _AMD), OnTriton((8, 0), _AMD)
_FP8_CORES = OnTriton((8, 9), _FP8_AMD)
_FLOATS = Dtypes((torch.bfloat16, torch.float16, torch.float32))
_HALVES = Dtypes((torch.bfloat16, torch.float16))
_ONE_PASS = (
    _ANY,
    _FLOATS,
    AtMost(1, 32768),
    Probe("trial rows", lambda device: quantizer_refusal(quantize_activations, device)),
)
# They move half the bytes of `_int_mm` between passes of plain torch, which come
# next. comfy-kitchen's CUDA kernels are before both.
_INT8_FIRST = {"cuda": 12}
_INT8_X = (_CORES, _FLOATS, AtMost(1, 32768))
_GROUPS = (Among((32, 64, 128, 256)),)
_E4M3_WEIGHT = (Dtypes((E4M3,)),)


def _linear(
    op: str,
    run: Any,
    error: float,
    needs: dict[str, tuple[Any, ...]],
    order: Mapping[str, int] = MappingProxyType({}),
) -> tuple[Claim, ...]:
    """The claim on a linear, and the one on it with a low-rank branch."""
    x = (*needs["x"], tried(op, run, error))
    both = {**needs, "x": x}
    return (
        Claim(op, run, both, order, error),
        Claim(op.replace("_linear", "_low_rank_linear"), run, both, order, error),
    )


def _weight_only(op: str, weight: torch.dtype) -> Claim:
    trial = tried(op, weight_only_linear, 0.006)
    needs = {"x": (_ANY, _HALVES, trial), "weight": (Dtypes((weight,)),)}
    return Claim(op, weight_only_linear, needs, error=0.006)


def _by_torchs_product(op: str, run: Any) -> Claim:
    x = (_ANY, _FLOATS, AtMost(1, 32768), tried(op, run, 0.015))
    return Claim(op, run, {"x": x}, _INT8_FIRST, 0.015)


def _widening(op: str, run: Any, *dtypes: torch.dtype) -> tuple[Claim, ...]:
    """A claim for each dtype of codes, after a trial of all 256 of them."""
    trials = {
        dtype: Probe("trial codes", partial(dequantizer_refusal, run, dtype)) for dtype in dtypes
    }
    return tuple(
        Claim(op, run, {"weight": (_ANY, Dtypes((dtype,)), trial)})
        for dtype, trial in trials.items()
    )


BACKEND = Backend(
    name="triton",
    title="our own Triton kernels",
    order=60,  # behind what was measured on a card, until a measured row says otherwise
    available=available,
    proven="run in Triton's interpreter; compiled for sm_80, sm_89, sm_90",
    claims=(
        Claim("quantize_int8", quantize_int8, {"weight": _ONE_PASS}),
        Claim("quantize_fp8_row", quantize_fp8_row, {"weight": _ONE_PASS}),
        Claim("quantize_activations", quantize_activations, {"x": _ONE_PASS}),
        *_widening("dequantize_int8", dequantize_int8, torch.int8),
        *_widening("dequantize_fp8", dequantize_fp8, E4M3, E5M2),
        _weight_only("int8_weight_only_linear", torch.int8),
        _weight_only("fp8_weight_only_linear", E4M3),
        *_linear("int8_linear", int8_linear, 0.015, {"x": _INT8_X}, _INT8_FIRST),
        Claim(
            "int8_convrot_linear",
            int8_convrot_linear,
            {"x": (*_INT8_X, tried("int8_convrot_linear", int8_convrot_linear, 0.015))},
            _INT8_FIRST,
            0.015,
        ),
        # Turing, whose int8 units Triton does not use
        _by_torchs_product("int8_linear", int8_linear_by_torch),
        _by_torchs_product("int8_convrot_linear", int8_convrot_linear_by_torch),
        *_linear(
            "fp8_row_linear",
            fp8_row_linear,
            0.03,
            {"x": (_FP8_CORES, _FLOATS, AtMost(1, 32768)), "weight": _E4M3_WEIGHT},
        ),
        *_linear(
            "fp8_block128_linear",
            fp8_block128_linear,
            0.03,
            {"x": (_FP8_CORES, _FLOATS, AtMost(1, 32768)), "weight": _E4M3_WEIGHT},
        ),
        *_linear(
            "int4_linear", int4_linear, 0.006, {"x": (_CORES, _HALVES), "group_size": _GROUPS}
        ),
    ),
)
