"""int8 or fp8 codes and a scale a row in, the numbers in the dtype of the output out."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import e4m3_bits_to_float


@triton.jit
def dequantize_rows(
    codes, scale, result, rows, inputs,
    block_rows: tl.constexpr, block: tl.constexpr, kind: tl.constexpr, per_row: tl.constexpr,
):  # fmt: skip
    """result[n, k] = codes[n, k] * scale[n] in float32, rounded once. `kind`: int8, e4m3, e5m2.

    e5m2 is float16's upper byte.
    """
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    place = tl.program_id(1) * block + tl.arange(0, block)
    kept = (row[:, None] < rows) & (place[None, :] < inputs)
    where = row.to(tl.int64)[:, None] * inputs + place[None, :]
    stored = tl.load(codes + where, mask=kept, other=0)
    if kind == "int8":
        values = stored.to(tl.float32)
    elif kind == "e4m3":
        values = e4m3_bits_to_float(stored)
    else:
        half = (stored.to(tl.int32) << 8).to(tl.int16)
        values = half.to(tl.float16, bitcast=True).to(tl.float32)
    if per_row:
        values = values * tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
    else:
        values = values * tl.load(scale)
    tl.store(result + where, values.to(result.dtype.element_ty), mask=kept)
