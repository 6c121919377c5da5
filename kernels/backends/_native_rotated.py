"""Rotated four-bit codes: the plain formulas' numbers, from tables instead of searches on a CPU.

Both products also run on a card, by `_int_mm`, where comfy-kitchen has no kernel for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import bits
from ..constraints import Dtypes, On
from ..registry import Claim
from . import _reference_rotated as plain
from ._by_rows import blocks_of_rows
from ._formulas import rotated, rounded_rows
from ._integers import integer_linear
from ._native_cards import on_amd, on_nvidia

Tensor = torch.Tensor
E4M3 = torch.float8_e4m3fn

# Elements of one run of rows: its few float32 copies stay in a core's second cache. Runs are whole
# multiples of 64 rows, because the last rows of a matrix product may be summed in another order.
RUN_ELEMENTS, RUN_ROWS = 1 << 17, 64
CARD_ELEMENTS = 1 << 23
# a bin of the table may hold one turning point; where the finest do not keep two apart, a search
BINS_PER_UNIT, FINEST, REACH = 32, 4096, 2.0
CLOSEST = 1e-6  # levels nearer to each other tie in float32 with others than their neighbors


@dataclass(frozen=True)
class Bins:
    """Between which levels a number lies, by its place on a line of equal bins.

    `low` and `high` are indices of the levels around the one turning point of a bin, from which
    on a number belongs to `high`; without a turning point it is infinity.
    """

    per_unit: int
    turning: Tensor
    low: Tensor

    def codes(self, values: Tensor) -> Tensor:
        """float32 -> uint8, the index of the nearest level."""
        half = REACH * self.per_unit
        at = (values * self.per_unit).add_(half).clamp_(0, 2 * half - 1).to(torch.int32).view(-1)
        at.clamp_(min=0)  # where NaN came out
        above = values.view(-1) >= self.turning.index_select(0, at)
        return self.low.index_select(0, at).add_(above).view(values.shape)


def turning_points(levels: Tensor) -> Tensor:
    """Rising levels (16) -> (15): the smallest float32 that is nearer to the next level.

    Found by halving the distance in the order of the floats, with the very comparison of `between`.
    """
    first, then = levels[:-1], levels[1:]
    low, high = _ordered(first), _ordered(then)
    for _ in range(33):
        middle = low + (high - low) // 2
        at = _float(middle)
        nearer = (at - then).abs() < (at - first).abs()
        high = torch.where(nearer, middle, high)
        low = torch.where(nearer, low, middle)
    return _float(high)


def _ordered(values: Tensor) -> Tensor:
    """float32 -> int64 that rises with it."""
    raw = values.view(torch.int32).to(torch.int64)
    return torch.where(raw < 0, -(raw & 0x7FFFFFFF), raw)


def _float(ordered: Tensor) -> Tensor:
    raw = torch.where(ordered < 0, -ordered - (1 << 31), ordered)
    return raw.to(torch.int32).view(torch.float32)


def bins_of(levels: Tensor) -> Bins | None:
    """The table for rising levels, None where no table is exact."""
    if not bool(levels.isfinite().all()) or not bool((levels.diff() > CLOSEST).all()):
        return None
    points = turning_points(levels)
    if float(levels.abs().amax()) >= REACH:
        return None
    per_unit = BINS_PER_UNIT
    while per_unit <= FINEST:
        places = (points.to(torch.float64) + REACH) * per_unit
        edges = torch.arange(2 * REACH * per_unit, dtype=torch.float64)
        slack = 1e-3  # of a bin: more than float32 loses on the way to the index
        before = torch.searchsorted(places, edges - slack)
        inside = torch.searchsorted(places, edges + 1 + slack, right=True) - before
        if int(inside.amax()) <= 1:
            padded = torch.cat((points, points.new_tensor([torch.inf])))
            turning = torch.where(inside > 0, padded[before], torch.inf)
            return Bins(per_unit, turning, before.to(torch.uint8))
        per_unit *= 2
    return None


def w4a8_codebook(sample: Tensor, group_size: int, rotation: int) -> Tensor:
    """(R, K) -> (16) float32."""
    return plain.codebook_of(sample, group_size, rotation, moved)


def moved(values: Tensor, levels: Tensor) -> Tensor:
    """`plain.moved`, the numbers of a level side by side in the order that they had."""
    table = bins_of(levels)
    if table is None:
        return plain.moved(values, levels)
    at = table.codes(values)
    side_by_side, means = values[torch.argsort(at, stable=True)], levels.clone()
    start = 0
    for index, count in enumerate(torch.bincount(at, minlength=16).tolist()):
        if count:
            means[index] = side_by_side[start : start + count].mean()
        start += count
    return means


def quantize_w4a4(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """(N, K) -> (N, K / 2) int8, (N) float32."""
    rows, k = weight.shape
    codes = torch.empty((rows, k // 2), dtype=torch.int8)
    scale = torch.empty(rows, dtype=torch.float32)
    for start, stop in blocks_of_rows(rows, k, RUN_ELEMENTS, RUN_ROWS):
        values, some = rounded_rows(rotated(weight[start:stop], group_size), 7.0, 1e-10, 0.0)
        nibbles = values.to(torch.int8).bitwise_and_(15).view(torch.uint8)
        codes[start:stop] = bits.pack_nibbles(nibbles)
        scale[start:stop] = some.view(-1)
    return codes, scale


def quantize_w4a8(
    weight: Tensor, codebook: Tensor, group_size: int, rotation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K) -> (N, K / 2) int8, (N, K / group_size) e4m3, (N) float32."""
    table = bins_of(codebook)
    if table is None:
        return plain.quantize_w4a8(weight, codebook, group_size, rotation)
    rows, k = weight.shape
    codes = torch.empty((rows, k // 2), dtype=torch.int8)
    scale = torch.empty((rows, k // group_size), dtype=E4M3)
    channel = torch.empty(rows, dtype=torch.float32)
    for start, stop in blocks_of_rows(rows, k, RUN_ELEMENTS, RUN_ROWS):
        grouped = plain.in_groups(weight[start:stop], group_size, rotation)
        some = _run(grouped, codebook, table)
        codes[start:stop], scale[start:stop], channel[start:stop] = some
    return codes, scale, channel


def _run(grouped: Tensor, codebook: Tensor, table: Bins) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated rows (n, groups, g) -> codes, group scales and row scales, as `plain` has them."""

    def levels_of(values: Tensor) -> Tensor:
        at = table.codes(values).view(-1).to(torch.int32)
        return codebook.index_select(0, at).view(values.shape)

    size = grouped.abs().amax(dim=-1, keepdim=True).clamp_(min=plain.LEAST)
    level = levels_of(grouped / size)
    for _ in range(plain.FITTED):
        across = (grouped * level).sum(-1, keepdim=True)
        size = (across / (level * level).sum(-1, keepdim=True).clamp_(min=plain.LEAST)).clamp_(
            min=plain.LEAST
        )
        level = levels_of(grouped / size)
    channel = (level * size).flatten(1).abs_().amax(-1, keepdim=True).div_(127.0)
    channel.clamp_(min=plain.LEAST)
    scale = (size.squeeze(-1) / channel).to(E4M3)
    numbers = (codebook * scale.to(torch.float32).unsqueeze(-1)).round_().clamp_(-127.0, 127.0)
    targets = grouped / channel.unsqueeze(-1)
    codes = _between(targets.flatten(0, 1), numbers.flatten(0, 1))
    return bits.pack_nibbles(codes.view(grouped.shape[0], -1)), scale, channel.view(-1)


def _between(values: Tensor, levels: Tensor) -> Tensor:
    """`plain.between` of each row's own levels (R, 16), whole numbers within +-127.

    A level is below v where it is at most ceil(v) - 1: bytes are compared, a level at a time.
    """
    last = values.ceil().clamp_(-127.0, 128.0).sub_(1.0).to(torch.int8).t().contiguous()
    counts = torch.zeros(last.shape, dtype=torch.uint8)
    for level in levels.to(torch.int8).t().contiguous():
        counts += (level <= last).view(torch.uint8)
    count = counts.t().contiguous()
    low, high = count.clamp(min=1).sub_(1), count.clamp(max=15)
    below, above = (
        torch.gather(levels, 1, at.to(torch.int64)).sub_(values).abs_() for at in (low, high)
    )
    return low.add_((above < below).view(torch.uint8))


def integers(weight: Tensor, scale: Tensor, codebook: Tensor | None) -> Tensor:
    """`plain.integers` as int8: the values of 16 codes for each group, one of them looked up."""
    size = 2 * weight.shape[1] // scale.shape[1]
    codes = bits.unpack_nibbles(weight).view(*scale.shape, size)
    levels = torch.arange(-8.0, 8.0, device=weight.device) if codebook is None else codebook
    numbers = (levels * scale.to(torch.float32).unsqueeze(-1)).round_().clamp_(-127.0, 127.0)
    found = torch.gather(numbers.to(torch.int8), 2, codes.to(torch.int64))
    return found.flatten(1)


def integers_in_runs(
    weight: Tensor, scale: Tensor, codebook: Tensor | None, elements: int
) -> Tensor:
    """`integers` in runs of rows, because looking up a code takes 14 bytes for a while."""
    rows, k = weight.shape[0], 2 * weight.shape[1]
    whole = weight.new_empty((rows, k))
    for start, stop in blocks_of_rows(rows, k, elements, 1):
        whole[start:stop] = integers(weight[start:stop], scale[start:stop], codebook)
    return whole


def dequantize_w4a8(
    weight: Tensor, scale: Tensor, channel: Tensor, codebook: Tensor | None, rotation: int
) -> Tensor:
    """(N, K / 2) int8 -> (N, K) float32, rotated back."""
    values = integers(weight, scale, codebook).to(torch.float32).mul_(channel)
    return rotated(values, rotation)


def w4a8_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rotation: int,
    scale: Tensor,
    channel: Tensor,
    codebook: Tensor | None,
) -> Tensor:
    """(M, K), (N, K / 2) int8 -> (M, N): exact int32 sums."""
    if weight.device.type == "cpu":
        whole = integers(weight, scale, codebook)
    else:
        whole = integers_in_runs(weight, scale, codebook, CARD_ELEMENTS)

    def rounded(part: Tensor) -> tuple[Tensor, Tensor]:
        codes, sx = rounded_rows(part, 127.0, 0.0, 1e-30)
        return codes.to(torch.int8), sx

    return integer_linear(rotated(x, rotation), rounded, whole, channel, bias, x.dtype)


def signed(weight: Tensor) -> Tensor:
    """(N, K / 2) int8 -> (N, K) int8 -8..7."""
    codes = bits.unpack_nibbles(weight)
    return (codes << 4).bitwise_right_shift_(4)


def dequantize_w4a4(weight: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """(N, K / 2) int8, () or (N, 1) -> (N, K) float32, rotated back."""
    return rotated(signed(weight).to(torch.float32).mul_(scale), group_size)


def w4a4_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    group_size: int,
    input_bits: int,
) -> Tensor:
    """(M, K), (N, K / 2) int8 -> (M, N): exact int32 sums."""
    top, least = (7.0, (1e-10, 0.0)) if input_bits == 4 else (127.0, (0.0, 1e-30))

    def rounded(part: Tensor) -> tuple[Tensor, Tensor]:
        codes, sx = rounded_rows(part, top, *least)
        return codes.to(torch.int8), sx

    return integer_linear(rotated(x, group_size), rounded, signed(weight), scale, bias, x.dtype)


_HERE = (On(("cpu",)),)
_CPU = (*_HERE, Dtypes((torch.bfloat16, torch.float16, torch.float32)))

CLAIMS = (
    Claim("w4a8_codebook", w4a8_codebook, {"sample": _CPU}),
    Claim("quantize_w4a4", quantize_w4a4, {"weight": _CPU}),
    Claim("quantize_w4a8", quantize_w4a8, {"weight": _CPU}),
    Claim("dequantize_w4a4", dequantize_w4a4, {"weight": _HERE}),
    Claim("dequantize_w4a8", dequantize_w4a8, {"weight": _HERE}),
    Claim("w4a4_linear", w4a4_linear, {"x": _CPU}, error=0.2),
    Claim("w4a8_linear", w4a8_linear, {"x": _CPU}, error=0.015),
    on_nvidia("w4a4_linear", w4a4_linear, 0.2),
    on_nvidia("w4a8_linear", w4a8_linear, 0.015),
    on_amd("w4a4_linear", w4a4_linear, 0.2),
    on_amd("w4a8_linear", w4a8_linear, 0.015),
)
