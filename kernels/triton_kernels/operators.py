"""Tensors in, tensors out: our Triton kernels as torch operators that a compiler can trace.

Shapes of what comes out follow from the shapes of what goes in and nothing is read back from the
device, so a CUDA graph can record a call. The operators are made once a process, also when two
copies of the pack are loaded.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
import triton

from ..product_tiles import BLOCK128, FP8, INT4, INT8, quantize_warps, rows_at_once
from . import dequantize, fp8_block128, int4_group, quantize, row_scaled, scale_sums
from .launch import Ends, casts_e4m3, product, start, target

Tensor = torch.Tensor
E4M3 = torch.float8_e4m3fn
MOST_INPUTS_AT_ONCE = 1024  # divides the widths of most transformers
_KINDS = {torch.int8: "int8", E4M3: "e4m3", torch.float8_e5m2: "e5m2"}


def _quantize_rows(
    x: Tensor, gain: Tensor | None, shift: Tensor | None, integer: bool, group: int, before: str,
    epsilon: float, least_amax: float, least_scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    rows, inputs = x.shape
    codes, scale = _quantize_rows_shape(x, gain, shift, integer, group)
    if rows == 0:
        return codes, scale
    gain, shift = (None if side is None else side.contiguous() for side in (gain, shift))
    block = max(16, group, triton.next_power_of_2(inputs))
    at_once = rows_at_once(block)
    start(
        quantize.quantize_rows, (triton.cdiv(rows, at_once),),
        x, gain, shift, codes if integer else codes.view(torch.uint8), scale, rows, inputs,
        epsilon, 127.0 if integer else 448.0, least_amax, least_scale,
        group=group or block, block_rows=at_once, block=block, before=before,
        has_gain=gain is not None, has_shift=shift is not None,
        integer=integer, cast=not integer and casts_e4m3(x.device),
        num_warps=quantize_warps(block * at_once, target(x.device)[0]),
    )  # fmt: skip
    return codes, scale


def _quantize_rows_shape(
    x: Tensor, gain: Tensor | None, shift: Tensor | None, integer: bool, group: int, *more: Any
) -> tuple[Tensor, Tensor]:
    columns = -(-x.shape[1] // group) if group else 1
    codes = torch.empty(x.shape, dtype=torch.int8 if integer else E4M3, device=x.device)
    return codes, torch.empty((x.shape[0], columns), dtype=torch.float32, device=x.device)


def _dequantize_rows(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    rows, inputs = codes.shape
    result = _dequantize_rows_shape(codes, scale, dtype)
    if rows == 0:
        return result
    block = min(MOST_INPUTS_AT_ONCE, max(16, triton.next_power_of_2(inputs)))
    at_once = rows_at_once(block)
    integer = codes.dtype == torch.int8
    start(
        dequantize.dequantize_rows, (triton.cdiv(rows, at_once), triton.cdiv(inputs, block)),
        codes if integer else codes.view(torch.uint8), scale, result, rows, inputs,
        block_rows=at_once, block=block, kind=_KINDS[codes.dtype], per_row=scale.numel() > 1,
    )  # fmt: skip
    return result


def _dequantize_rows_shape(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(codes.shape, dtype=dtype, device=codes.device)


def _scale_sums(
    sums: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    rows, outputs = sums.shape
    result = _scale_sums_shape(sums, x_scale, scale, bias, dtype)
    if result.numel() == 0:
        return result
    block = min(MOST_INPUTS_AT_ONCE, max(16, triton.next_power_of_2(outputs)))
    at_once = rows_at_once(block)
    start(
        scale_sums.scale_sums, (triton.cdiv(rows, at_once), triton.cdiv(outputs, block)),
        sums.contiguous(), x_scale, scale, None if bias is None else bias.contiguous(), result,
        rows, outputs, block_rows=at_once, block=block, per_output=scale.numel() > 1,
        has_bias=bias is not None,
    )  # fmt: skip
    return result


def _scale_sums_shape(
    sums: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return torch.empty(sums.shape, dtype=dtype, device=sums.device)


def _row_scaled(
    x: Tensor, weight: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None,
    middle: Tensor | None, up: Tensor | None, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    integer = weight.dtype == torch.int8
    return product(
        row_scaled.row_scaled_product, INT8 if integer else FP8, x, weight, (x_scale, scale),
        Ends(bias, middle, up), dtype, torch.bfloat16 if middle is None else middle.dtype,
        per_output=scale.numel() > 1, integer=integer,
    )  # fmt: skip


def _block128(
    x: Tensor, weight: Tensor, x_scale: Tensor, scale: Tensor, bias: Tensor | None,
    middle: Tensor | None, up: Tensor | None, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    return product(
        fp8_block128.block128_product, BLOCK128, x, weight, (x_scale, scale),
        Ends(bias, middle, up), dtype, torch.bfloat16 if middle is None else middle.dtype,
    )  # fmt: skip


def _int4(
    x: Tensor, weight: Tensor, scale: Tensor, zeros: Tensor | None, bias: Tensor | None,
    middle: Tensor | None, up: Tensor | None, group: int,
) -> Tensor:  # fmt: skip
    return product(
        int4_group.int4_product, INT4, x, weight, (scale, zeros), Ends(bias, middle, up), x.dtype,
        x.dtype, group=group, has_zeros=zeros is not None,
    )  # fmt: skip


def _product_shape(x: Tensor, weight: Tensor, *more: Any) -> Tensor:
    """The last argument is the output's dtype; a group size there means x's."""
    dtype = more[-1] if isinstance(more[-1], torch.dtype) else x.dtype
    return torch.empty((x.shape[0], weight.shape[0]), dtype=dtype, device=x.device)


_ENDS = "Tensor? bias, Tensor? middle, Tensor? up"
_DEFINED = (
    ("quantize_rows", _quantize_rows, _quantize_rows_shape,
     "(Tensor x, Tensor? gain, Tensor? shift, bool integer, int group, str before, "
     "float epsilon, float least_amax, float least_scale) -> (Tensor, Tensor)"),
    ("dequantize_rows", _dequantize_rows, _dequantize_rows_shape,
     "(Tensor codes, Tensor scale, ScalarType dtype) -> Tensor"),
    ("scale_sums", _scale_sums, _scale_sums_shape,
     "(Tensor sums, Tensor x_scale, Tensor scale, Tensor? bias, ScalarType dtype) -> Tensor"),
    ("row_scaled", _row_scaled, _product_shape,
     f"(Tensor x, Tensor weight, Tensor x_scale, Tensor scale, {_ENDS}, ScalarType dtype)"
     " -> Tensor"),
    ("block128", _block128, _product_shape,
     f"(Tensor x, Tensor weight, Tensor x_scale, Tensor scale, {_ENDS}, ScalarType dtype)"
     " -> Tensor"),
    ("int4", _int4, _product_shape,
     f"(Tensor x, Tensor weight, Tensor scale, Tensor? zeros, {_ENDS}, int group) -> Tensor"),
)  # fmt: skip


@cache
def operators() -> SimpleNamespace:
    """The operators by name, defined now or by the copy of the pack that was loaded first."""
    found = SimpleNamespace()
    for name, run, shape, schema in _DEFINED:
        full = f"triton_{name}"
        if not hasattr(torch.ops.fusequant, full):
            made = torch.library.custom_op(
                f"fusequant::{full}", run, mutates_args=(), schema=schema
            )
            made.register_fake(shape)
        setattr(found, name, getattr(torch.ops.fusequant, full))
    return found
