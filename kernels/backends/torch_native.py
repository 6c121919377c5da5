"""The ops by torch's fast paths: integer views, bit shifts, `_int_mm` and row-wise `_scaled_mm`."""

from __future__ import annotations

from functools import cache

import torch
from torch.nn import functional

from .. import bits
from ..constraints import Capability, Dtypes, MultipleOf, On, OneNumber, Probe
from ..hadamard import hadamard
from ..registry import Backend, Claim
from . import _native_blocks, _native_cards, _native_rotated
from ._by_rows import compute_dtype, weight_only_linear
from ._integers import integer_linear
from ._native_cards import on_amd
from ._native_low_rank import ADDED, low_rank_claims
from .reference import TOP

Tensor = torch.Tensor
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2

# A rotation on a CPU needs a copy or two of its rows. A quarter MiB each stays below what glibc
# hands back to the system at every free; above it, page faults made it five times slower.
ROTATED_ELEMENTS = 2**16


def amax(weight: Tensor) -> Tensor:
    """(...) -> () float32."""
    return bits.largest(weight)


def row_amax(weight: Tensor) -> Tensor:
    """(N, K) -> (N, 1) float32."""
    return bits.largest(weight, dim=-1)


def rotate_groups(weight: Tensor, group_size: int) -> Tensor:
    """(N, K) -> (N, K) float32: H256 = H16 kron H16, so X (16, 16) -> H16 X H16, 4 times as fast.

    Equal to the one matmul up to float32 rounding.
    """
    result = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    step = _rotated_rows(weight)
    for start in range(0, weight.shape[0], step):
        _rotate(weight[start : start + step], group_size, result[start : start + step])
    return result


def quantize_fp8(weight: Tensor, amax: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) `dtype`, () float32."""
    top = TOP[dtype]
    scale = (amax.to(torch.float32) / top).clamp_(min=1e-30)
    values = _fresh(weight).mul_(1.0 / scale)
    return values.clamp_(-top, top).to(dtype), scale


def dequantize_fp8(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) fp8, () or (N, 1) -> (N, K) float32."""
    if weight.dtype == E5M2:
        return bits.e5m2_to_half(weight).to(torch.float32).mul_(scale)
    return bits.e4m3_to_float(weight).mul_(scale)


def quantize_fp8_row(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) e4m3, (N, 1) float32."""
    scale = row_amax(weight).clamp_(min=1e-5).div_(448.0)
    return _to_e4m3(weight, scale), scale


def quantize_fp8_block128(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) e4m3, (ceil(N / 128), ceil(K / 128)) float32."""
    rows, k = weight.shape
    padded = functional.pad(weight, (0, -k % 128, 0, -rows % 128))
    tiles = padded.reshape(padded.shape[0] // 128, 128, padded.shape[1] // 128, 128)
    scale = bits.largest(tiles, dim=-1).amax(dim=1, keepdim=True).clamp_(min=1e-4).div_(448.0)
    codes = _to_e4m3(tiles, scale).reshape(padded.shape)
    return codes[:rows, :k].contiguous(), scale[:, 0, :, 0]


def dequantize_fp8_block128(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) e4m3 of whole tiles, (tiles, tiles) -> (N, K) float32."""
    rows, k = weight.shape
    values = bits.e4m3_to_float(weight).view(rows // 128, 128, k // 128, 128)
    return values.mul_(scale[:, None, :, None]).view(rows, k)


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) int8, (N, 1) float32.

    No clamp: in float32 no w / scale exceeds 127 by as much as half a step.
    """
    scale = row_amax(weight).div_(127.0).clamp_(min=1e-30)
    return _fresh(weight).div_(scale).round_().to(torch.int8), scale


def dequantize_int8(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) int8, () or (N, 1) -> (N, K) float32."""
    return weight.to(torch.float32).mul_(scale)


def quantize_int8_convrot(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) int8 of the rotated weight, (N, 1) float32."""
    rows, step = weight.shape[0], _rotated_rows(weight)
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = torch.empty((rows, 1), dtype=torch.float32, device=weight.device)
    shape = (min(rows, step), weight.shape[1])
    block = torch.empty(shape, dtype=torch.float32, device=weight.device)
    for start in range(0, rows, step):
        part, some = weight[start : start + step], scale[start : start + step]
        rotated = _rotate(part, group_size, block[: part.shape[0]])
        some.copy_(bits.largest(rotated, dim=-1).div_(127.0).clamp_(min=1e-30))
        codes[start : start + step] = rotated.div_(some).round_()
    return codes, scale


def quantize_int4(weight: Tensor, group_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K / 2) int8, (K / group_size, N) `dtype`."""
    rows, k = weight.shape
    grouped = weight.reshape(rows, k // group_size, group_size)
    least = 2.0**-24 if dtype == torch.float16 else 1e-30
    wanted = bits.largest(grouped, dim=-1).mul_(2.0).div_(15.0).clamp_(min=least)
    scale = wanted.to(dtype)
    codes = _fresh(grouped).div_(scale.to(torch.float32)).round_().add_(8.0).clamp_(0.0, 15.0)
    packed = bits.pack_nibbles(codes.reshape(rows, k).to(torch.uint8))
    return packed, scale.reshape(rows, k // group_size).t().contiguous()


def dequantize_int4(weight: Tensor, scale: Tensor, zeros: Tensor | None, group_size: int) -> Tensor:
    """(N, K / 2) int8, (K / group_size, N) -> (N, K) float32."""
    rows, half = weight.shape
    values = bits.unpack_nibbles(weight).to(torch.float32).sub_(8.0)
    grouped = values.view(rows, 2 * half // group_size, group_size)
    grouped.mul_(scale.t().to(torch.float32).unsqueeze(-1))
    if zeros is not None:
        grouped.add_(zeros.t().to(torch.float32).unsqueeze(-1))
    return grouped.view(rows, 2 * half)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(M, K), (N, K) -> (M, N) in x's dtype; a CPU computes in a dtype that it has units for."""
    if x.device.type == "cpu" and compute_dtype("cpu", x.dtype) != x.dtype:
        return weight_only_linear(x, weight, bias, torch.ones(()))
    return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N): exact sums, in blocks of rows; see `integer_linear`."""
    return integer_linear(x, quantize_int8, weight, scale, bias)


def int8_convrot_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), (N, K) int8 of a rotated weight -> (M, N)."""
    return int8_linear(rotate_groups(x, group_size), weight, bias, scale).to(x.dtype)


def fp8_weight_only_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) fp8 -> (M, N)."""
    return weight_only_linear(x, weight, bias, scale)


def fp8_linear_unquantized(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, input_scale: Tensor | None
) -> Tensor:
    """(M, K), (N, K) fp8 -> (M, N) without fp8 arithmetic; `input_scale` has no use."""
    return weight_only_linear(x, weight, bias, scale)


def fp8_block128_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) e4m3 of whole tiles -> (M, N); x as it is."""
    return weight_only_linear(x, weight, bias, scale, tile=128)


def int8_weight_only_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor
) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N)."""
    return weight_only_linear(x, weight, bias, scale)


def int4_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    zeros: Tensor | None,
    group_size: int,
) -> Tensor:
    """(M, K), (N, K / 2) -> (M, N)."""
    return weight_only_linear(x, weight, bias, scale, zeros=zeros, group_size=group_size)


def fp8_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, input_scale: Tensor | None
) -> Tensor:
    """(M, K), (N, K) fp8 -> (M, N) on fp8 tensor cores, one scale a side."""
    if input_scale is None:
        sx = bits.largest(x).div_(448.0).clamp_(min=1e-30)
    else:
        sx = input_scale.to(torch.float32).reshape(())
    added = None if bias is None else bias.to(x.dtype)
    return torch._scaled_mm(
        _to_e4m3(x, sx), weight.t(), scale_a=sx, scale_b=scale, bias=added, out_dtype=x.dtype
    )


def fp8_row_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) e4m3 -> (M, N) on fp8 tensor cores, one scale a row on both sides."""
    sx = row_amax(x).div_(448.0).clamp_(min=1e-30)
    columns = scale.expand(weight.shape[0], 1).reshape(1, -1).contiguous()
    added = None if bias is None else bias.to(torch.bfloat16)
    # the row-wise kernel writes bfloat16 and nothing else
    result = torch._scaled_mm(
        _to_e4m3(x, sx),
        weight.t(),
        scale_a=sx,
        scale_b=columns,
        bias=added,
        out_dtype=torch.bfloat16,
    )
    return result.to(x.dtype)


@cache
def row_scaled_mm_refusal(device: torch.device) -> str | None:
    """Multiply ones by ones once: None, or what torch says on this device."""
    ones = torch.ones((32, 32), dtype=torch.bfloat16, device=device)
    try:
        result = fp8_row_linear(ones, ones.to(E4M3), None, torch.ones((32, 1), device=device))
    except RuntimeError as error:
        return f"row-wise _scaled_mm: {str(error).splitlines()[0]}"
    if bool((result.to(torch.float32) == 32.0).all()):
        return None
    return "row-wise _scaled_mm gave a wrong product"


def _fresh(values: Tensor) -> Tensor:
    """A float32 copy that may be overwritten."""
    return values.to(torch.float32, copy=True)


def _rotated_rows(weight: Tensor) -> int:
    if weight.device.type != "cpu":
        return max(1, weight.shape[0])
    return max(1, ROTATED_ELEMENTS // weight.shape[1])


def _rotate(part: Tensor, group_size: int, out: Tensor) -> Tensor:
    """(rows, K) -> `out` (rows, K) float32."""
    values = part.to(torch.float32)
    if group_size != 256:
        matrix = hadamard(group_size, part.device)
        torch.mm(values.reshape(-1, group_size), matrix, out=out.view(-1, group_size))
        return out
    matrix = hadamard(16, part.device)
    right = (values.reshape(-1, 16) @ matrix).view(-1, 16, 16)
    torch.bmm(matrix.expand(right.shape), right, out=out.view(-1, 16, 16))
    return out


def _to_e4m3(values: Tensor, scale: Tensor) -> Tensor:
    return _fresh(values).div_(scale).clamp_(-448.0, 448.0).to(E4M3)


_CPU = (On(("cpu",)),)
_HERE = (On(("cpu", "cuda")),)
_FLOATS = Dtypes((torch.bfloat16, torch.float16, torch.float32))
_VALUES = (On(("cpu", "cuda")), _FLOATS)
_HALVES = Dtypes((torch.bfloat16, torch.float16))
_TILES = (MultipleOf(0, 128), MultipleOf(1, 128))
_FP8_CORES = Capability((8, 9))
_SIXTEENS = (MultipleOf(0, 16), MultipleOf(1, 16))

_CLAIMS = (
    *_native_cards.CLAIMS,
    Claim("amax", amax, {"weight": _VALUES}),
    Claim("row_amax", row_amax, {"weight": _VALUES}),
    Claim("rotate_groups", rotate_groups, {"weight": (*_CPU, _FLOATS)}),
    Claim("quantize_fp8", quantize_fp8, {"weight": _VALUES}),
    Claim("dequantize_fp8", dequantize_fp8, {"weight": (*_CPU, Dtypes((E4M3, E5M2)))}),
    Claim("quantize_fp8_row", quantize_fp8_row, {"weight": _VALUES}),
    Claim("quantize_fp8_block128", quantize_fp8_block128, {"weight": _VALUES}),
    Claim("dequantize_fp8_block128", dequantize_fp8_block128, {"weight": (*_CPU, *_TILES)}),
    Claim("quantize_int8", quantize_int8, {"weight": _VALUES}),
    Claim("dequantize_int8", dequantize_int8, {"weight": _HERE}),
    Claim("quantize_int8_convrot", quantize_int8_convrot, {"weight": (*_CPU, _FLOATS)}),
    Claim("quantize_int4", quantize_int4, {"weight": _VALUES}),
    Claim("dequantize_int4", dequantize_int4, {"weight": _HERE}),
    Claim("linear", linear, {"x": (_FLOATS,)}, error=0.004),
    Claim(
        "fp8_linear",
        fp8_linear,
        {"x": (_FP8_CORES, _HALVES), "weight": _SIXTEENS, "scale": (OneNumber(),)},
        error=0.03,
    ),
    on_amd("fp8_linear", fp8_linear, 0.03, True, weight=_SIXTEENS, scale=(OneNumber(),)),
    on_amd("fp8_row_linear", fp8_row_linear, 0.03, True, weight=_SIXTEENS),
    Claim("fp8_linear", fp8_linear_unquantized, {"x": _VALUES}, error=0.006),
    Claim("fp8_weight_only_linear", fp8_weight_only_linear, {"x": _VALUES}, error=0.006),
    Claim(
        "fp8_row_linear",
        fp8_row_linear,
        {
            "x": (_FP8_CORES, _HALVES, Probe("a trial product", row_scaled_mm_refusal)),
            "weight": _SIXTEENS,
        },
        error=0.03,
    ),
    Claim("fp8_row_linear", fp8_weight_only_linear, {"x": _VALUES}, error=0.006),
    Claim(
        "fp8_block128_linear",
        fp8_block128_linear,
        {"x": _VALUES, "weight": _TILES},
        error=0.006,
    ),
    Claim("int8_linear", int8_linear, {"x": (*_CPU, _FLOATS)}, error=0.015),
    Claim("int8_linear", int8_linear, {"x": (Capability((7, 5)), _FLOATS)}, error=0.015),
    Claim(
        "int8_weight_only_linear",
        int8_weight_only_linear,
        {"x": (On(("cpu", "cuda", "mps", "xpu")), _FLOATS)},
        error=0.006,
    ),
    Claim("int8_convrot_linear", int8_convrot_linear, {"x": (*_CPU, _FLOATS)}, error=0.015),
    Claim(
        "int8_convrot_linear",
        int8_convrot_linear,
        {"x": (Capability((7, 5)), _FLOATS)},
        error=0.015,
    ),
    on_amd("int8_linear", int8_linear, 0.015),
    on_amd("int8_convrot_linear", int8_convrot_linear, 0.015),
    Claim("int4_linear", int4_linear, {"x": _VALUES}, error=0.006),
    *_native_blocks.CLAIMS,
    *_native_rotated.CLAIMS,
)

BACKEND = Backend(
    name="torch_native",
    title="torch's fast paths",
    order=20,
    claims=(*_CLAIMS, ADDED, *low_rank_claims(_CLAIMS)),
)
