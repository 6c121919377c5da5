"""int32 sums of a product of int8 codes in, the product in the dtype of the output out."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scale_sums(
    sums, x_scale, scale, bias, result, rows, outputs,
    block_rows: tl.constexpr, block: tl.constexpr, per_output: tl.constexpr,
    has_bias: tl.constexpr,
):  # fmt: skip
    """result[m, n] = sums[m, n] * s[n] * sx[m] + bias[n] in float32, rounded once."""
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    output = tl.program_id(1) * block + tl.arange(0, block)
    kept = (row[:, None] < rows) & (output[None, :] < outputs)
    where = row.to(tl.int64)[:, None] * outputs + output[None, :]
    values = tl.load(sums + where, mask=kept, other=0).to(tl.float32)
    if per_output:
        values *= tl.load(scale + output, mask=output < outputs, other=0.0)[None, :]
    else:
        values *= tl.load(scale)
    values *= tl.load(x_scale + row, mask=row < rows, other=0.0)[:, None]
    if has_bias:
        values += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    tl.store(result + where, values.to(result.dtype.element_ty), mask=kept)
