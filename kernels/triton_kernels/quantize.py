"""Rows in, optionally through LayerNorm, SiLU or GELU, codes and their scales out in one pass."""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import at_least, magnitude_bits, round_even, to_e4m3_bits


@triton.jit
def _before(values, kept, inputs, gain, shift, epsilon, before: tl.constexpr):
    """What happens to whole rows in float32; places that are not `kept` stay 0."""
    if before == "layer_norm":
        mean = tl.sum(values, axis=1) / inputs
        centered = tl.where(kept, values - mean[:, None], 0.0)
        variance = tl.sum(centered * centered, axis=1) / inputs
        values = centered * (1.0 / tl.sqrt_rn(variance + epsilon))[:, None] * gain + shift
        values = tl.where(kept, values, 0.0)
    elif before == "silu":
        values = values / (1.0 + tl.exp(-values))
    elif before == "gelu":
        values = 0.5 * values * (1.0 + tl.erf(values * 0.7071067811865476))
    elif before == "gelu_tanh":
        inner = 1.5957691216057308 * (values + 0.044715 * values * values * values)
        values = values / (1.0 + tl.exp(-inner))
    return values


@triton.jit
def quantize_rows(
    x, gain, shift, codes, scales, rows, inputs, epsilon, top, least_amax, least_scale,
    group: tl.constexpr, block_rows: tl.constexpr, block: tl.constexpr, before: tl.constexpr,
    has_gain: tl.constexpr, has_shift: tl.constexpr, integer: tl.constexpr, cast: tl.constexpr,
):  # fmt: skip
    """s = max(max(amax, least_amax) / top, least_scale), code = v / s rounded; v = before(x).

    A program holds `block_rows` whole rows, filled up to `block`, a power of two. `group` numbers
    share a scale: all of `block`, or 128. `cast` writes e4m3 by the hardware's conversion, else
    its bits are computed.
    """
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    place = tl.arange(0, block)
    kept = (row[:, None] < rows) & (place[None, :] < inputs)
    where = row.to(tl.int64)[:, None] * inputs + place[None, :]
    values = tl.load(x + where, mask=kept, other=0.0).to(tl.float32)
    factor = 1.0
    if has_gain:
        factor = tl.load(gain + place, mask=place < inputs, other=0.0).to(tl.float32)[None, :]
    offset = 0.0
    if has_shift:
        offset = tl.load(shift + place, mask=place < inputs, other=0.0).to(tl.float32)[None, :]
    values = _before(values, kept, inputs, factor, offset, epsilon, before)
    groups: tl.constexpr = block // group
    values = tl.reshape(values, (block_rows * groups, group))
    amax = tl.max(magnitude_bits(values), axis=1).to(tl.float32, bitcast=True)
    scale = at_least(tl.div_rn(at_least(amax, least_amax), top), least_scale)
    scaled = tl.div_rn(values, tl.broadcast_to(scale[:, None], (block_rows * groups, group)))
    number = tl.arange(0, groups)
    count = tl.cdiv(inputs, group)
    tl.store(
        scales + row.to(tl.int64)[:, None] * count + number[None, :],
        tl.reshape(scale, (block_rows, groups)),
        mask=(row[:, None] < rows) & (number[None, :] < count),
    )
    if integer:
        result = round_even(scaled).to(tl.int8)
    else:
        limited = tl.where(scaled > top, top, tl.where(scaled < -top, -top, scaled))
        if cast:
            result = limited.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
        else:
            result = to_e4m3_bits(limited)
    tl.store(codes + where, tl.reshape(result, (block_rows, block)), mask=kept)
