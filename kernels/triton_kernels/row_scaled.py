"""Codes (M, K) and (N, K) with a scale a row on both sides in, y (M, N) out."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import add_bias_and_branch, block_of


@triton.jit
def row_scaled_product(
    x, weight, x_scale, scale, bias, middle, up, result, rows, outputs, inputs, rank,
    block_rows: tl.constexpr, block_outputs: tl.constexpr, block_inputs: tl.constexpr,
    block_rank: tl.constexpr, has_bias: tl.constexpr, per_output: tl.constexpr,
    integer: tl.constexpr, compute: tl.constexpr,
):  # fmt: skip
    """y[m, n] = (x w.T)[m, n] * sx[m] * s[n] + bias[n] + (middle up.T)[m, n].

    int8 codes are summed exactly in int32, e4m3 in float32: a tensor core that keeps fewer bits
    hands its sums over after every `block_inputs`.
    """
    over, across = block_of(tl.program_id(0), rows, outputs, block_rows, block_outputs)
    row = (over * block_rows + tl.arange(0, block_rows)).to(tl.int64)
    output = (across * block_outputs + tl.arange(0, block_outputs)).to(tl.int64)
    sums = tl.zeros((block_rows, block_outputs), dtype=tl.int32 if integer else tl.float32)
    for start in range(0, inputs, block_inputs):
        place = start + tl.arange(0, block_inputs)
        left = tl.load(
            x + row[:, None] * inputs + place[None, :],
            mask=(row[:, None] < rows) & (place[None, :] < inputs), other=0.0,
        )  # fmt: skip
        right = tl.load(
            weight + output[None, :] * inputs + place[:, None],
            mask=(output[None, :] < outputs) & (place[:, None] < inputs), other=0.0,
        )  # fmt: skip
        if integer:
            sums = tl.dot(left, right, sums, out_dtype=tl.int32)
        else:
            sums = tl.dot(left, right, sums, max_num_imprecise_acc=block_inputs)
    of_row = tl.load(x_scale + row, mask=row < rows, other=0.0)
    if per_output:
        of_output = tl.load(scale + output, mask=output < outputs, other=0.0)[None, :]
    else:
        of_output = tl.load(scale)
    values = sums.to(tl.float32) * of_output * of_row[:, None]
    values = add_bias_and_branch(
        values, bias, middle, up, row, output, rows, outputs, rank, has_bias, block_rank, compute
    )
    tl.store(
        result + row[:, None] * outputs + output[None, :],
        values.to(result.dtype.element_ty),
        mask=(row[:, None] < rows) & (output[None, :] < outputs),
    )
