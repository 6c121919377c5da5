"""x (M, K) and codes of four bits with a scale per group of inputs in, y (M, N) out."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import add_bias_and_branch, block_of


@triton.jit
def int4_product(
    x, weight, scale, zeros, bias, middle, up, result, rows, outputs, inputs, rank,
    group: tl.constexpr, block_rows: tl.constexpr, block_outputs: tl.constexpr,
    block_inputs: tl.constexpr, block_rank: tl.constexpr, has_zeros: tl.constexpr,
    has_bias: tl.constexpr, compute: tl.constexpr,
):  # fmt: skip
    """y[m, n] = sum over groups g of s[g, n] * (x (u - 8).T)[m, n, g] + z[g, n] * sum of x in g.

    weight (N, K / 2): low nibble = even input. The codes are whole numbers, exact in `compute`, and
    the left side of the product, where tensor cores take registers and few rows of x cost little.
    `block_inputs` divides `group`.
    """
    over, across = block_of(tl.program_id(0), rows, outputs, block_rows, block_outputs)
    row = (over * block_rows + tl.arange(0, block_rows)).to(tl.int64)
    output = (across * block_outputs + tl.arange(0, block_outputs)).to(tl.int64)
    half: tl.constexpr = block_inputs // 2
    sums = tl.zeros((block_outputs, block_rows), dtype=tl.float32)
    for start in range(0, inputs, block_inputs):
        pair = start // 2 + tl.arange(0, half)
        packed = tl.load(
            weight + output[:, None] * (inputs // 2) + pair[None, :],
            mask=output[:, None] < outputs, other=0,
        )  # fmt: skip
        codes = tl.interleave((packed & 15) - 8, ((packed >> 4) & 15) - 8)
        place = start + tl.arange(0, block_inputs)
        values = tl.load(
            x + row[None, :] * inputs + place[:, None], mask=row[None, :] < rows, other=0.0
        )
        of_group = (start // group) * outputs + output
        factor = tl.load(scale + of_group, mask=output < outputs, other=0.0).to(tl.float32)
        sums += tl.dot(codes.to(compute), values.to(compute)) * factor[:, None]
        if has_zeros:
            zero = tl.load(zeros + of_group, mask=output < outputs, other=0.0).to(tl.float32)
            sums += zero[:, None] * tl.sum(values.to(tl.float32), axis=0)[None, :]
    finished = add_bias_and_branch(
        tl.trans(sums), bias, middle, up, row, output, rows, outputs, rank,
        has_bias, block_rank, compute,
    )  # fmt: skip
    tl.store(
        result + row[:, None] * outputs + output[None, :],
        finished.to(result.dtype.element_ty),
        mask=(row[:, None] < rows) & (output[None, :] < outputs),
    )
