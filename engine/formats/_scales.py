"""Scale tensors in, how they fit their weight and what is wrong with them out; no torch."""

from __future__ import annotations

import math

from ..bits import BITS, patterns, values
from ..problem import Problem
from ..problem_kinds import tell
from ..source import Source
from ..tensors import TensorSpec

BLOCK = 128
RUN_BYTES, RUNS = 1 << 16, 16
# highest bytes that a number which is not finite may have
TOPS = {
    "F64": b"\x7f\xff",
    "F32": b"\x7f\xff",
    "BF16": b"\x7f\xff",
    "F16": bytes((*range(0x7C, 0x80), *range(0xFC, 0x100))),
    "F8_E8M0": b"\xff",
}


def fit(weight: TensorSpec, scale: TensorSpec, columns: int | None = None) -> str:
    """How a scale of some shape spreads over a weight (N, K).

    Answers `tensor` (one number), `row` ([N, 1]), `row-flat` ([N]), `row-transposed` ([1, N]),
    `column` ([1, K]), `block<g>` ([ceil(N/g), ceil(K/g)]) or `unfit`.
    """
    if scale.elements == 1:
        return "tensor"
    if len(weight.shape) < 2:
        return "unfit"
    n, k = weight.shape[0], columns or math.prod(weight.shape[1:])
    known = {
        (1, k): "column",
        (1, n): "row-transposed",
        (n,): "row-flat",
        (n,) + (1,) * (len(weight.shape) - 1): "row",
        (n, 1): "row",
    }
    if scale.shape in known:
        return known[scale.shape]
    for size in (BLOCK, 64, 32, 16, 256):
        if scale.shape == (-(-n // size), -(-k // size)):
            return f"block{size}"
    return "unfit"


def check_numbers(source: Source, scale: TensorSpec, layer: str) -> list[Problem]:
    """NaN, infinite, zero and negative scales; each kind told once per tensor."""
    bits = BITS.get(scale.dtype)
    if bits is None:
        return [tell("scale-dtype", f"{scale.name} of dtype {scale.dtype}", layer)]
    if not scale.elements:
        return []
    numbers = patterns(source, scale, bits.code)
    low, high = min(numbers), max(numbers)
    zero_is_number = scale.dtype == "F8_E8M0"
    if high < bits.infinite and (low > 0 or zero_is_number):
        return []
    found = []
    magnitudes = [number & (bits.sign - 1) for number in numbers]
    if max(magnitudes) >= bits.infinite:
        bad = sum(number >= bits.infinite for number in magnitudes)
        found.append(("scale-not-finite", f"{bad} of {len(magnitudes)} scales NaN or infinite"))
    if not zero_is_number and min(magnitudes) == 0:
        found.append(("scale-zero", f"{magnitudes.count(0)} of {len(magnitudes)} scales zero"))
    if any(bits.sign < number and number & (bits.sign - 1) < bits.infinite for number in numbers):
        found.append(("scale-negative", "scales below zero"))
    return [tell(kind, text, layer) for kind, text in found]


def check_grid(source: Source, grid: TensorSpec, layer: str) -> list[Problem]:
    """NaN and infinity among many scales; of a grid of more than a MiB some runs are read."""
    bits = BITS.get(grid.dtype)
    if bits is None:
        return [tell("scale-dtype", f"{grid.name} of dtype {grid.dtype}", layer)]
    width = grid.size_bytes // max(1, grid.elements)
    for at in _runs(grid.size_bytes):
        data = source.read_bytes(grid.name, at, min(RUN_BYTES, grid.size_bytes - at))
        tops = data[width - 1 :: width]  # bytes are little-endian: sign and exponent come last
        if len(tops.translate(None, TOPS[grid.dtype])) == len(tops):
            continue
        numbers = memoryview(data).cast(bits.code)  # type: ignore[call-overload]
        if max(number & (bits.sign - 1) for number in numbers) >= bits.infinite:
            return [tell("scale-not-finite", f"NaN or infinity in {grid.name}", layer)]
    return []


def _runs(size_bytes: int) -> range:
    """Where the runs that are read begin."""
    if size_bytes <= RUN_BYTES * RUNS:
        return range(0, size_bytes, RUN_BYTES)
    step = (size_bytes - RUN_BYTES) // (RUNS - 1)
    return range(0, size_bytes - RUN_BYTES + 1, step - step % 8)


def same_numbers(source: Source, one: TensorSpec, other: TensorSpec) -> bool:
    """Two scales say the same, whatever their shapes and dtypes."""
    if one.elements != other.elements or one.dtype not in BITS or other.dtype not in BITS:
        return False
    return values(source, one) == values(source, other)
