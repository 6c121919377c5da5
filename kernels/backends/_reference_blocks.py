"""The plain backend's formulas for codes with tiled block scales (mxfp8, nvfp4)."""

from __future__ import annotations

import torch
from torch.nn import functional

from .. import bits
from ..registry import Claim
from ..tiles import filled, tiled, untiled
from ._formulas import multiply

Tensor = torch.Tensor
E4M3 = torch.float8_e4m3fn
NOT_FINITE = 255  # of an exponent that stands for no number

# the numbers halfway between two of e2m1, and whether they are rounded up: to the even code
HALFWAY = (
    (0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True),
    (5.0, False),
)  # fmt: skip


def quantize_mxfp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N', K') e4m3, tiled uint8."""
    blocks = _blocks(weight, 32)
    largest = blocks.abs().amax(dim=-1)
    wanted = torch.log2((largest / 448.0).clamp(min=2.0**-127)).ceil()
    exponents = (wanted.nan_to_num(0.0, 0.0, 0.0).to(torch.int32) + 127).clamp_(0, 254)
    exponents = exponents.to(torch.uint8).masked_fill_(largest == 0, 0)
    scale = bits.e8m0_to_float(exponents).unsqueeze(-1)
    values = torch.where(scale == 0, 0.0, blocks / scale).clamp_(-448.0, 448.0)
    exponents.masked_fill_(~largest.isfinite(), NOT_FINITE)
    return values.to(E4M3).flatten(1), tiled(exponents)


def dequantize_mxfp8(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) e4m3, tiled uint8 -> (N, K) float32."""
    rows, k = weight.shape
    spread = bits.e8m0_to_float(untiled(scale, rows, k // 32)).unsqueeze(-1)
    return (weight.to(torch.float32).view(rows, k // 32, 32) * spread).view(rows, k)


def quantize_nvfp4(weight: Tensor, scale_2: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N', K' / 2) uint8, tiled uint8."""
    blocks = _blocks(weight, 16)
    wanted = blocks.abs().amax(dim=-1) / 6.0 / scale_2
    scale = wanted.clamp(max=448.0).to(E4M3)
    total = (scale_2 * scale.to(torch.float32)).unsqueeze(-1)
    values = torch.where(total == 0, 0.0, blocks / total).clamp_(-6.0, 6.0)
    packed = bits.pack_high_first(e2m1(values.flatten(1)))
    return packed, tiled(scale.view(torch.uint8))


def dequantize_nvfp4(weight: Tensor, scale: Tensor, scale_2: Tensor) -> Tensor:
    """(N, K / 2) uint8, tiled uint8, () -> (N, K) float32."""
    rows, k = weight.shape[0], 2 * weight.shape[1]
    stored = untiled(scale, rows, k // 16).contiguous().view(E4M3)
    total = (scale_2 * stored.to(torch.float32)).unsqueeze(-1)
    values = bits.e2m1_to_float(bits.unpack_high_first(weight))
    return (values.view(rows, k // 16, 16) * total).view(rows, k)


def e2m1(values: Tensor) -> Tensor:
    """float32 within +-6 -> uint8 codes 0..15, halves to the even code, the sign of zero kept."""
    size = values.abs()
    codes = torch.zeros(values.shape, dtype=torch.uint8, device=values.device)
    for point, up in HALFWAY:
        codes += size >= point if up else size > point
    return codes | (values.signbit().to(torch.uint8) << 3)


def mxfp8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) e4m3 -> (M, N); x becomes mxfp8."""
    values = dequantize_mxfp8(*quantize_mxfp8(x))[: x.shape[0]]
    return multiply(values, dequantize_mxfp8(weight, scale), bias, x.dtype)


def nvfp4_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    scale_2: Tensor,
    input_scale: Tensor | None,
) -> Tensor:
    """(M, K), (N, K / 2) uint8 -> (M, N); x becomes nvfp4."""
    if input_scale is None:
        input_scale = x.to(torch.float32).abs().amax() / 2688.0
        input_scale = torch.where(input_scale == 0, 1.0, input_scale)
    codes, stored = quantize_nvfp4(x, input_scale)
    values = dequantize_nvfp4(codes, stored, input_scale)[: x.shape[0]]
    return multiply(values, dequantize_nvfp4(weight, scale, scale_2), bias, x.dtype)


def _blocks(weight: Tensor, size: int) -> Tensor:
    """(N, K) -> float32 (N', K' / size, size), both sides filled up with zeros."""
    rows, k = weight.shape
    full = filled(rows, size), filled(k, size)
    values = functional.pad(weight.to(torch.float32), (0, full[1] - k, 0, full[0] - rows))
    return values.view(full[0], full[1] // size, size)


CLAIMS = (
    Claim("quantize_mxfp8", quantize_mxfp8),
    Claim("dequantize_mxfp8", dequantize_mxfp8),
    Claim("quantize_nvfp4", quantize_nvfp4),
    Claim("dequantize_nvfp4", dequantize_nvfp4),
    Claim("mxfp8_linear", mxfp8_linear, error=0.035),
    Claim("nvfp4_linear", nvfp4_linear, error=0.13),
)
