"""comfy-kitchen's own quantizers for the formats of ComfyUI with block scales or rotated codes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from ..constraints import Dtypes, NotEmpty, On
from ..registry import Claim
from . import _reference_blocks
from ._kitchen_kernels import COMPILED_FIRST, Compiled

Tensor = torch.Tensor
E4M3 = torch.float8_e4m3fn


def _kitchen() -> Any:
    return importlib.import_module("comfy_kitchen")


def _layouts() -> Any:
    return importlib.import_module("comfy_kitchen.tensor")


def quantize_mxfp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N', K') e4m3, tiled uint8.

    comfy-kitchen takes NaN for zero, and leaves NaN where a block is too small for any exponent.
    """
    values = weight.to(torch.float32)
    if not bool(values.isfinite().all()):
        return _reference_blocks.quantize_mxfp8(weight)
    codes, scale = _kitchen().quantize_mxfp8(values, pad_32x=True)
    return torch.where(codes.isnan(), 0, codes.view(torch.uint8)).view(E4M3), _bytes(scale)


def dequantize_mxfp8(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) e4m3, tiled uint8 -> (N, K) float32."""
    stored = scale.view(torch.float8_e8m0fnu)
    values: Tensor = _kitchen().dequantize_mxfp8(weight, stored, torch.float32)
    return values


def quantize_nvfp4(weight: Tensor, scale_2: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N', K' / 2) uint8, tiled uint8."""
    values = weight.to(torch.float32)
    codes, scale = _kitchen().quantize_nvfp4(values, scale_2, pad_16x=True)
    return codes, _bytes(scale)


def dequantize_nvfp4(weight: Tensor, scale: Tensor, scale_2: Tensor) -> Tensor:
    """(N, K / 2) uint8, tiled uint8, () -> (N, K) float32."""
    stored = scale.view(E4M3)
    values: Tensor = _kitchen().dequantize_nvfp4(weight, scale_2, stored, torch.float32)
    return values


def quantize_w4a4(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K / 2) int8, (N) float32."""
    run = _layouts().quantize_convrot_w4a4_weight
    made: tuple[Tensor, Tensor] = run(weight.to(torch.float32), group_size)
    return made


def dequantize_w4a4(weight: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """(N, K / 2) int8, () or (N, 1) -> (N, K) float32, rotated back."""
    run = _layouts().dequantize_convrot_w4a4_weight
    rows = scale.expand(weight.shape[0], 1).reshape(-1).contiguous()
    values: Tensor = run(weight, rows, group_size, output_dtype=torch.float32)
    return values


def w4a4_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    group_size: int,
    input_bits: int,
) -> Tensor:
    """(M, K), (N, K / 2) int8 -> (M, N); its CPU code takes 4 input bits in any case."""
    rows = scale.expand(weight.shape[0], 1).reshape(-1).contiguous()
    made: Tensor = _layouts().convrot_w4a4_linear(
        x, weight, rows, bias, convrot_groupsize=group_size, linear_dtype=f"int{input_bits}"
    )
    return made


def w4a8_codebook(sample: Tensor, group_size: int, rotation: int) -> Tensor:
    """(R, K) -> (16) float32: what comfy-kitchen decides on for these rows as a weight."""
    run = _layouts().quantize_w4a8_int8_weight
    made: Tensor = run(sample.to(torch.float32), group_size, rotation)[4]
    return made


def quantize_w4a8(
    weight: Tensor, codebook: Tensor, group_size: int, rotation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K) -> (N, K / 2) int8, (N, K / group_size) e4m3, (N) float32."""
    run = _layouts().quantize_w4a8_int8_weight
    made = run(weight.to(torch.float32), group_size, rotation, codebook_tensor=codebook)
    return made[0], made[1], made[2]


def dequantize_w4a8(
    weight: Tensor, scale: Tensor, channel: Tensor, codebook: Tensor | None, rotation: int
) -> Tensor:
    """(N, K / 2) int8 -> (N, K) float32, rotated back."""
    values: Tensor = _layouts().dequantize_w4a8_int8_weight(
        weight,
        scale,
        channel.reshape(-1),
        codebook,
        group_size=_group_size(weight, scale),
        convrot_groupsize=rotation,
        output_dtype=torch.float32,
    )
    return values


def w4a8_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rotation: int,
    scale: Tensor,
    channel: Tensor,
    codebook: Tensor | None,
) -> Tensor:
    """(M, K), (N, K / 2) int8 -> (M, N)."""
    made: Tensor = _layouts().w4a8_int8_linear(
        x,
        weight,
        scale,
        channel.reshape(-1),
        codebook,
        bias=bias,
        group_size=_group_size(weight, scale),
        convrot_groupsize=rotation,
        out_dtype=x.dtype,
    )
    return made


def _group_size(weight: Tensor, scale: Tensor) -> int:
    return 2 * weight.shape[1] // scale.shape[1]


def _bytes(scale: Tensor) -> Tensor:
    return scale.view(torch.uint8).contiguous()


_HERE = (On(("cpu", "cuda")), NotEmpty())
_FLOATS = (*_HERE, Dtypes((torch.bfloat16, torch.float16, torch.float32)))


def _compiled(op: str, run: Callable[..., Any], function: str, error: float | None = None) -> Claim:
    """A claim on what a kernel of a card computes; its first argument is the one that counts."""
    first = "x" if op.endswith("_linear") else "weight"
    return Claim(op, run, {first: (Compiled(function), *_FLOATS)}, COMPILED_FIRST, error)


CLAIMS = (
    _compiled("quantize_mxfp8", quantize_mxfp8, "quantize_mxfp8"),
    Claim("dequantize_mxfp8", dequantize_mxfp8, {"weight": _HERE}),
    _compiled("quantize_nvfp4", quantize_nvfp4, "quantize_nvfp4"),
    Claim("dequantize_nvfp4", dequantize_nvfp4, {"weight": _HERE}),
    _compiled("quantize_w4a4", quantize_w4a4, "quantize_convrot_w4a4_weight"),
    Claim("dequantize_w4a4", dequantize_w4a4, {"weight": _HERE}),
    _compiled("w4a4_linear", w4a4_linear, "convrot_w4a4_linear", 0.2),
    Claim("w4a8_codebook", w4a8_codebook, {"sample": _FLOATS}),
    _compiled("quantize_w4a8", quantize_w4a8, "quantize_w4a8_int8_weight"),
    Claim("dequantize_w4a8", dequantize_w4a8, {"weight": _HERE}),
    _compiled("w4a8_linear", w4a8_linear, "w4a8_int8_linear", 0.02),
)
