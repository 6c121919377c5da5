"""e4m3 codes with a scale per 128 inputs, the weight's per 128 x 128 tile, in, y (M, N) out."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import add_bias_and_branch, block_of


@triton.jit
def block128_product(
    x, weight, x_scale, scale, bias, middle, up, result, rows, outputs, inputs, rank,
    block_rows: tl.constexpr, block_outputs: tl.constexpr,
    block_rank: tl.constexpr, has_bias: tl.constexpr, compute: tl.constexpr,
):  # fmt: skip
    """y[m, n] = sum over b of sx[m, b] * s[n // 128, b] * (x w.T)[m, n, b] + bias + branch.

    Each block's sum starts anew and is added in float32. `block_outputs` divides 128, so that a
    program has one scale of the weight a block.
    """
    over, across = block_of(tl.program_id(0), rows, outputs, block_rows, block_outputs)
    row = (over * block_rows + tl.arange(0, block_rows)).to(tl.int64)
    output = (across * block_outputs + tl.arange(0, block_outputs)).to(tl.int64)
    blocks = tl.cdiv(inputs, 128)
    of_tile = scale + (across * block_outputs // 128) * blocks
    sums = tl.zeros((block_rows, block_outputs), dtype=tl.float32)
    for number in range(0, blocks):
        place = number * 128 + tl.arange(0, 128)
        left = tl.load(
            x + row[:, None] * inputs + place[None, :],
            mask=(row[:, None] < rows) & (place[None, :] < inputs), other=0.0,
        )  # fmt: skip
        right = tl.load(
            weight + output[None, :] * inputs + place[:, None],
            mask=(output[None, :] < outputs) & (place[:, None] < inputs), other=0.0,
        )  # fmt: skip
        of_row = tl.load(x_scale + row * blocks + number, mask=row < rows, other=0.0)
        sums += tl.dot(left, right) * (of_row * tl.load(of_tile + number))[:, None]
    values = add_bias_and_branch(
        sums, bias, middle, up, row, output, rows, outputs, rank, has_bias, block_rank, compute
    )
    tl.store(
        result + row[:, None] * outputs + output[None, :],
        values.to(result.dtype.element_ty),
        mask=(row[:, None] < rows) & (output[None, :] < outputs),
    )
