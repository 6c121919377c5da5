"""Every op in plain torch, as its formula reads: right on every device, and what `right` means."""

from __future__ import annotations

import torch
from torch.nn import functional

from ..registry import Backend, Claim
from . import _reference_blocks, _reference_fused, _reference_rotated
from ._formulas import multiply, rotated

Tensor = torch.Tensor
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
TOP = {E4M3: 448.0, E5M2: 57344.0}


def amax(weight: Tensor) -> Tensor:
    """(...) -> () float32."""
    return weight.to(torch.float32).abs().amax()


def row_amax(weight: Tensor) -> Tensor:
    """(N, K) -> (N, 1) float32."""
    return weight.to(torch.float32).abs().amax(dim=-1, keepdim=True)


def rotate_groups(weight: Tensor, group_size: int) -> Tensor:
    """(N, K) -> (N, K) float32, each group times H as one matmul."""
    return rotated(weight, group_size)


def quantize_fp8(weight: Tensor, amax: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) `dtype`, () float32."""
    top = TOP[dtype]
    scale = (amax.to(torch.float32) / top).clamp(min=1e-30)
    return (weight.to(torch.float32) * (1.0 / scale)).clamp_(-top, top).to(dtype), scale


def dequantize_fp8(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) fp8, () or (N, 1) -> (N, K) float32."""
    return weight.to(torch.float32) * scale


def quantize_fp8_row(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) e4m3, (N, 1) float32."""
    scale = row_amax(weight).clamp(min=1e-5) / 448.0
    return _to_e4m3(weight, scale), scale


def quantize_fp8_block128(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) e4m3, (ceil(N / 128), ceil(K / 128)) float32."""
    rows, k = weight.shape
    padded = functional.pad(weight.to(torch.float32), (0, -k % 128, 0, -rows % 128))
    tiles = padded.reshape(padded.shape[0] // 128, 128, padded.shape[1] // 128, 128)
    scale = tiles.abs().amax(dim=(1, 3)).clamp(min=1e-4) / 448.0
    return _to_e4m3(weight, _spread(scale, rows, k)), scale


def dequantize_fp8_block128(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) e4m3, (tiles, tiles) -> (N, K) float32."""
    return weight.to(torch.float32) * _spread(scale, *weight.shape)


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) int8, (N, 1) float32."""
    scale = (row_amax(weight) / 127.0).clamp(min=1e-30)
    return (weight.to(torch.float32) / scale).round_().clamp_(-128.0, 127.0).to(torch.int8), scale


def dequantize_int8(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) int8, () or (N, 1) -> (N, K) float32."""
    return weight.to(torch.float32) * scale


def quantize_int8_convrot(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) int8 of the rotated weight, (N, 1) float32."""
    return quantize_int8(rotate_groups(weight, group_size))


def dequantize_int8_convrot(weight: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """(N, K) int8, () or (N, 1) -> (N, K) float32, rotated back."""
    return rotate_groups(dequantize_int8(weight, scale), group_size)


def quantize_int4(weight: Tensor, group_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K / 2) int8, (K / group_size, N) `dtype`."""
    rows, k = weight.shape
    grouped = weight.to(torch.float32).reshape(rows, k // group_size, group_size)
    least = 2.0**-24 if dtype == torch.float16 else 1e-30  # the smallest float16 above zero
    wanted = (grouped.abs().amax(dim=-1) * 2.0 / 15.0).clamp(min=least)
    scale = wanted.to(dtype)
    codes = (grouped / scale.to(torch.float32).unsqueeze(-1)).round_().add_(8.0).clamp_(0.0, 15.0)
    pairs = codes.reshape(rows, k // 2, 2).to(torch.uint8)
    packed = pairs[..., 0] | (pairs[..., 1] << 4)
    return packed.view(torch.int8), scale.t().contiguous()


def dequantize_int4(weight: Tensor, scale: Tensor, zeros: Tensor | None, group_size: int) -> Tensor:
    """(N, K / 2) int8, (K / group_size, N) -> (N, K) float32."""
    rows, half = weight.shape
    packed = weight.view(torch.uint8)
    codes = torch.stack((packed & 15, packed >> 4), dim=-1).to(torch.float32)
    grouped = codes.reshape(rows, 2 * half // group_size, group_size) - 8.0
    values = grouped * scale.t().to(torch.float32).unsqueeze(-1)
    if zeros is not None:
        values = values + zeros.t().to(torch.float32).unsqueeze(-1)
    return values.reshape(rows, 2 * half)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(M, K), (N, K) -> (M, N)."""
    return multiply(x.to(torch.float32), weight.to(torch.float32), bias, x.dtype)


def fp8_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, input_scale: Tensor | None
) -> Tensor:
    """(M, K), (N, K) fp8 -> (M, N); x becomes e4m3 with one scale."""
    if input_scale is None:
        sx = (amax(x) / 448.0).clamp(min=1e-30)
    else:
        sx = input_scale.to(torch.float32).reshape(())
    values = _to_e4m3(x, sx).to(torch.float32) * sx
    return multiply(values, dequantize_fp8(weight, scale), bias, x.dtype)


def fp8_weight_only_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) fp8 -> (M, N)."""
    return multiply(x.to(torch.float32), dequantize_fp8(weight, scale), bias, x.dtype)


def fp8_row_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) e4m3 -> (M, N); x becomes e4m3 with one scale per row."""
    sx = (row_amax(x) / 448.0).clamp(min=1e-30)
    values = _to_e4m3(x, sx).to(torch.float32) * sx
    return multiply(values, dequantize_fp8(weight, scale), bias, x.dtype)


def fp8_block128_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) e4m3 -> (M, N); x becomes e4m3 with one scale per row and 128 inputs."""
    rows, k = x.shape
    runs = functional.pad(x.to(torch.float32), (0, -k % 128)).reshape(rows, -1, 128)
    sx = runs.abs().amax(dim=-1, keepdim=True).clamp(min=1e-10) / 448.0
    values = (_to_e4m3(runs, sx).to(torch.float32) * sx).reshape(rows, -1)[:, :k]
    return multiply(values, dequantize_fp8_block128(weight, scale), bias, x.dtype)


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N); x becomes int8 with one scale per row."""
    values = dequantize_int8(*quantize_int8(x))
    return multiply(values, dequantize_int8(weight, scale), bias, x.dtype)


def int8_weight_only_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor
) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N)."""
    return multiply(x.to(torch.float32), dequantize_int8(weight, scale), bias, x.dtype)


def int8_convrot_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), (N, K) int8 of a rotated weight -> (M, N); x is rotated, then int8."""
    rotated = int8_linear(rotate_groups(x, group_size), weight, bias, scale)
    return rotated.to(x.dtype)


def pack_int8(weight: Tensor) -> Tensor:
    """int8 (N, K) -> the same rows: plain torch multiplies them as they are."""
    return weight


def unpack_int8(weight: Tensor) -> Tensor:
    """(K, N) in oneDNN's order -> int8 (N, K)."""
    return weight.to_dense().t().contiguous()


def int8_packed_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), a packed weight -> (M, N), as its rows would; x is rotated where there is a size."""
    values = rotate_groups(x, group_size) if group_size else x
    return int8_linear(values, unpack_int8(weight), bias, scale).to(x.dtype)


def int4_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    zeros: Tensor | None,
    group_size: int,
) -> Tensor:
    """(M, K), (N, K / 2) -> (M, N)."""
    values = dequantize_int4(weight, scale, zeros, group_size)
    return multiply(x.to(torch.float32), values, bias, x.dtype)


def _to_e4m3(values: Tensor, scale: Tensor) -> Tensor:
    # torch's cast to e4m3 gives NaN above 464, so the clamp comes first
    return (values.to(torch.float32) / scale).clamp_(-448.0, 448.0).to(E4M3)


def _spread(scale: Tensor, rows: int, k: int) -> Tensor:
    """Tile scales (ceil(rows / 128), ceil(k / 128)) -> (rows, k)."""
    return scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :k]


BACKEND = Backend(
    name="reference",
    title="plain torch, formula by formula",
    order=100,
    claims=(
        Claim("amax", amax),
        Claim("row_amax", row_amax),
        Claim("rotate_groups", rotate_groups),
        Claim("quantize_fp8", quantize_fp8),
        Claim("dequantize_fp8", dequantize_fp8),
        Claim("quantize_fp8_row", quantize_fp8_row),
        Claim("quantize_fp8_block128", quantize_fp8_block128),
        Claim("dequantize_fp8_block128", dequantize_fp8_block128),
        Claim("quantize_int8", quantize_int8),
        Claim("dequantize_int8", dequantize_int8),
        Claim("quantize_int8_convrot", quantize_int8_convrot),
        Claim("dequantize_int8_convrot", dequantize_int8_convrot),
        Claim("quantize_int4", quantize_int4),
        Claim("dequantize_int4", dequantize_int4),
        Claim("linear", linear, error=0.004),
        Claim("fp8_linear", fp8_linear, error=0.03),
        Claim("fp8_weight_only_linear", fp8_weight_only_linear, error=0.004),
        Claim("fp8_row_linear", fp8_row_linear, error=0.03),
        Claim("fp8_block128_linear", fp8_block128_linear, error=0.03),
        Claim("int8_linear", int8_linear, error=0.015),
        Claim("int8_weight_only_linear", int8_weight_only_linear, error=0.004),
        Claim("int8_convrot_linear", int8_convrot_linear, error=0.015),
        Claim("pack_int8", pack_int8),
        Claim("unpack_int8", unpack_int8),
        Claim("int8_packed_linear", int8_packed_linear, error=0.015),
        Claim("int4_linear", int4_linear, error=0.004),
        *_reference_fused.CLAIMS,
        *_reference_fused.low_rank_claims(
            {
                "int8": (int8_linear, 0.015),
                "fp8_row": (fp8_row_linear, 0.03),
                "fp8_block128": (fp8_block128_linear, 0.03),
                "int4": (int4_linear, 0.004),
            }
        ),
        *_reference_blocks.CLAIMS,
        *_reference_rotated.CLAIMS,
    ),
)
