"""The ops that comfy-kitchen documents, by its own kernels: bit for bit what ComfyUI computes."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from ..constraints import Dtypes, On, OneNumber
from ..registry import Backend, Claim
from . import _kitchen_blocks, _kitchen_kernels

Tensor = torch.Tensor
FLOAT32 = 0  # comfy-kitchen's number for the output dtype


def available() -> str | None:
    """None, or why comfy-kitchen cannot be used here."""
    try:
        _kitchen()
    except ImportError as error:
        return f"comfy-kitchen cannot be imported: {error}"
    return None


def why_eager(scheme_or_function: str, device: torch.device) -> str | None:
    """Why ComfyUI, as it stands, runs a scheme's linear on the device in comfy-kitchen's plain
    torch code; None where comfy-kitchen has a compiled kernel, or none is needed there."""
    return available() or _kitchen_kernels.why_eager(scheme_or_function, device)


def _kitchen() -> Any:
    return importlib.import_module("comfy_kitchen")


def quantize_fp8(weight: Tensor, amax: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) `dtype`, () float32."""
    scale = (amax.to(torch.float32) / torch.finfo(dtype).max).clamp_(min=1e-30)
    codes: Tensor = _kitchen().quantize_per_tensor_fp8(weight.to(torch.float32), scale, dtype)
    return codes, scale


def dequantize_fp8(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) fp8, () or (N, 1) -> (N, K) float32."""
    values: Tensor = _kitchen().dequantize_per_tensor_fp8(weight, scale, torch.float32)
    return values


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) int8, (N, 1) float32."""
    made: tuple[Tensor, Tensor] = _kitchen().quantize_int8_rowwise(weight.to(torch.float32))
    return made


def dequantize_int8(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) int8, () or (N, 1) -> (N, K) float32."""
    values: Tensor = _kitchen().dequantize_int8_simple(weight, scale)
    return values


def quantize_int8_convrot(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K) int8 of the rotated weight, (N, 1) float32."""
    _kitchen()
    op = torch.ops.comfy_kitchen.quantize_int8_convrot_weight
    made: tuple[Tensor, Tensor] = op(weight.to(torch.float32), group_size)
    return made


def dequantize_int8_convrot(weight: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """(N, K) int8, () or (N, 1) -> (N, K) float32, rotated back."""
    _kitchen()
    op = torch.ops.comfy_kitchen.dequantize_int8_convrot_weight_dtype
    values: Tensor = op(weight, scale, group_size, FLOAT32)
    return values


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N)."""
    made: Tensor = _kitchen().int8_linear(x, weight, scale, bias, x.dtype)
    return made


def int8_convrot_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), (N, K) int8 of a rotated weight -> (M, N)."""
    made: Tensor = _kitchen().int8_linear(
        x, weight, scale, bias, x.dtype, convrot=True, convrot_groupsize=group_size
    )
    return made


def int4_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    zeros: Tensor | None,
    group_size: int,
) -> Tensor:
    """(M, K), (N, K / 2) -> (M, N), computed in the scale's dtype."""
    zeros = torch.zeros_like(scale) if zeros is None else zeros
    added = None if bias is None else bias.to(scale.dtype)
    made: Tensor = _kitchen().gemv_awq_w4a16(
        x.to(scale.dtype), weight, scale, zeros, added, group_size
    )
    return made.to(x.dtype)


_FLOATS = (On(("cpu", "cuda")), Dtypes((torch.bfloat16, torch.float16, torch.float32)))
_HALVES = (On(("cpu", "cuda")), Dtypes((torch.bfloat16, torch.float16)))
_CODES = (On(("cpu", "cuda")),)
# its CPU code is plain torch, slower than torch_native's; its CUDA kernels are what ComfyUI runs
_FIRST_ON_CUDA = {"cuda": 10}

BACKEND = Backend(
    name="kitchen",
    title="comfy-kitchen, ComfyUI's own kernels",
    order=50,
    available=available,
    claims=(
        Claim("quantize_fp8", quantize_fp8, {"weight": _FLOATS}),
        Claim("dequantize_fp8", dequantize_fp8, {"weight": _CODES, "scale": (OneNumber(),)}),
        Claim("quantize_int8", quantize_int8, {"weight": _FLOATS}),
        Claim("dequantize_int8", dequantize_int8, {"weight": _CODES}),
        Claim("quantize_int8_convrot", quantize_int8_convrot, {"weight": _FLOATS}),
        Claim("dequantize_int8_convrot", dequantize_int8_convrot, {"weight": _CODES}),
        Claim("int8_linear", int8_linear, {"x": _FLOATS}, _FIRST_ON_CUDA, error=0.02),
        Claim(
            "int8_convrot_linear",
            int8_convrot_linear,
            {"x": _FLOATS},
            _FIRST_ON_CUDA,
            error=0.02,
        ),
        Claim("int4_linear", int4_linear, {"x": _HALVES}, error=0.02),
        *_kitchen_blocks.CLAIMS,
    ),
)
