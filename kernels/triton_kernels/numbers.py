"""Numbers of a tile in, codes or wider numbers out: exact on every GPU and in the interpreter.

GPUs before sm_89 have no e4m3 of their own; what is done here by bits runs on all of them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def magnitude_bits(values):
    """float32 -> int32 that orders as |v| does, infinity above every number and NaN above it."""
    return values.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def at_least(values, least):
    """max(v, least) that keeps NaN, which `tl.maximum` would lose."""
    return tl.where(values < least, least, values)


@triton.jit
def round_even(values):
    """float32 of |v| < 2^22 -> the nearest whole number, halves to the even one.

    1.5 * 2^23 + v has no bits left below the ones.
    """
    return (values + 12582912.0) - 12582912.0


@triton.jit
def to_e4m3_bits(values):
    """float32 within +-448 -> uint8 e4m3 codes, halves to the even code; NaN becomes 0x7F.

    From 2^-6 on, adding just under half of the last kept place to float32's bits carries as
    rounding does. Below that codes are multiples of 2^-9, which 2^14 + v rounds to.
    """
    magnitude = magnitude_bits(values)
    sign = (values.to(tl.int32, bitcast=True) >> 24) & 0x80
    kept = (magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20
    normal = kept - ((127 - 7) << 3)
    absolute = magnitude.to(tl.float32, bitcast=True)
    subnormal = (absolute + 16384.0).to(tl.int32, bitcast=True) - 0x46800000
    code = tl.where(magnitude < 0x3C800000, subnormal, normal)
    code = tl.where(magnitude > 0x7F800000, 0x7F, code)
    return (sign | code).to(tl.uint8)


@triton.jit
def e4m3_bits_to_float(codes):
    """uint8 e4m3 codes -> float32, every code exactly.

    s eeee mmm moves to float16's s 0 eeee mmm 0000000, which is the number / 256.
    """
    wide = codes.to(tl.int32)
    half = (((wide & 0x80) << 8) | ((wide & 0x7F) << 7)).to(tl.int16)
    values = half.to(tl.float16, bitcast=True).to(tl.float32) * 256.0
    return tl.where((wide & 0x7F) == 0x7F, float("nan"), values)


@triton.jit
def block_of(number, rows, outputs, block_rows: tl.constexpr, block_outputs: tl.constexpr):
    """The number of a program -> (block of rows, block of outputs).

    Eight blocks of rows take turns at the same weights, so that these are still in the L2 cache.
    """
    down = tl.cdiv(rows, block_rows)
    across = tl.cdiv(outputs, block_outputs)
    strip = 8 * across
    first = (number // strip) * 8
    height = tl.minimum(down - first, 8)
    inside = number % strip
    return first + inside % height, inside // height


@triton.jit
def add_bias_and_branch(
    sums, bias, middle, up, row, output, rows, outputs, rank,
    has_bias: tl.constexpr, block_rank: tl.constexpr, compute: tl.constexpr,
):  # fmt: skip
    """sums (R, O) float32 + bias[o] + sum over r of middle[m, r] * up[o, r], sums in float32.

    `row` and `output` are int64; `block_rank` 0 means that there is no branch.
    """
    if has_bias:
        sums += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    if block_rank > 0:
        for start in range(0, rank, block_rank):
            part = start + tl.arange(0, block_rank)
            left = tl.load(
                middle + row[:, None] * rank + part[None, :],
                mask=(row[:, None] < rows) & (part[None, :] < rank), other=0.0,
            )  # fmt: skip
            right = tl.load(
                up + output[None, :] * rank + part[:, None],
                mask=(output[None, :] < outputs) & (part[:, None] < rank), other=0.0,
            )  # fmt: skip
            sums = tl.dot(left.to(compute), right.to(compute), sums)
    return sums
