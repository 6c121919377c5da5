"""Rows that are rounded to whole numbers and whole-number weights in, their exact product out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from .. import cpu
from ._by_rows import weight_only_linear

Tensor = torch.Tensor

# What one block of int32 sums may take. On a CPU it has to come from what the allocator kept:
# 16 MiB measured 1.5 times bf16's speed where 64 MiB and more measured 1.0 (12288 outputs).
BLOCK_BYTES = {"cpu": 16 * 2**20}
BLOCK_BYTES_ELSEWHERE = 256 * 2**20
WIDENED_ROWS = 1024  # every run of rows widens the weight again: 2 % of the product's time then


def integer_linear(
    x: Tensor,
    quantize: Callable[[Tensor], tuple[Tensor, Tensor]],
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """(M, K), (N, K) int8, () or (N, 1) -> (M, N) in `dtype`, None for x's; in blocks of rows.

    quantize(rows) -> int8 (rows, K) and their scale (rows, 1).
    """
    if x.device.type == "cpu" and not cpu.multiplies_int8():
        return widened_linear(x, quantize, weight, scale, bias, dtype or x.dtype)
    outputs = weight.shape[0]
    columns = scale.reshape(1, -1)
    added = None if bias is None else bias.to(torch.float32)
    budget = BLOCK_BYTES.get(x.device.type, BLOCK_BYTES_ELSEWHERE)
    result = x.new_empty((x.shape[0], outputs), dtype=dtype or x.dtype)
    step = max(32, budget // (4 * outputs))
    for start in range(0, x.shape[0], step):
        codes, sx = quantize(x[start : start + step])
        sums = (int_mm(codes, weight) * columns).mul_(sx)
        result[start : start + step] = sums if added is None else sums.add_(added)
    return result


def widened_linear(
    x: Tensor,
    quantize: Callable[[Tensor], tuple[Tensor, Tensor]],
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """`integer_linear` with both sides' codes in float32: sums are exact below 2^24, then rounded.

    Where a CPU has no int8 units `_int_mm` is a plain loop, 24 times slower than this.
    """
    added = None if bias is None else bias.to(torch.float32)
    result = x.new_empty((x.shape[0], weight.shape[0]), dtype=dtype)
    for start in range(0, x.shape[0], WIDENED_ROWS):
        codes, sx = quantize(x[start : start + WIDENED_ROWS])
        sums = weight_only_linear(codes.to(torch.float32), weight, None, scale).mul_(sx)
        result[start : start + WIDENED_ROWS] = sums if added is None else sums.add_(added)
        del codes, sums  # or they would lie beside those of the next run
    return result


def int_mm(x: Tensor, weight: Tensor) -> Tensor:
    """(M, K) int8, (N, K) int8 -> (M, N) int32.

    CUDA wants more than 16 rows, K and N in multiples of 8 (Turing: 32 for N): zeros fill up.
    """
    if x.device.type != "cuda":
        return torch._int_mm(x, weight.t())
    turing = torch.cuda.get_device_capability(x.device) < (8, 0)
    rows, outputs = x.shape[0], weight.shape[0]
    fill_k, fill_rows = -x.shape[1] % 8, max(0, 32 - rows)
    fill_outputs = -outputs % (32 if turing else 8)
    if fill_k or fill_rows:
        x = functional.pad(x, (0, fill_k, 0, fill_rows))
    if fill_k or fill_outputs:
        weight = functional.pad(weight, (0, fill_k, 0, fill_outputs))
    return torch._int_mm(x.contiguous(), weight.contiguous().t())[:rows, :outputs]
