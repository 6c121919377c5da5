"""NaN and infinity are found in the bits of every float dtype, and nothing else is."""

from __future__ import annotations

import math
import random
import struct

import pytest

from fusequant.engine.bits import not_finite
from fusequant.engine.tensors import TensorSpec


class OneTensor:
    """A source of the bytes of one tensor."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_bytes(self, name: str) -> bytes:
        """All of them."""
        return self._data


def says(dtype: str, data: bytes, count: int) -> bool:
    """What is said of `count` numbers in `data`."""
    return not_finite(OneTensor(data), TensorSpec("x", dtype, (count,)))  # type: ignore[arg-type]


def number(dtype: str, data: bytes) -> float:
    """One number by Python's own reading of it."""
    if dtype == "BF16":
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    return float(struct.unpack({"F16": "<e", "F32": "<f", "F64": "<d"}[dtype], data)[0])


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_pattern_of_16_bits_is_told_right(dtype: str) -> None:
    for code in range(1 << 16):
        data = code.to_bytes(2, "little")
        assert says(dtype, data, 1) == (not math.isfinite(number(dtype, data)))


@pytest.mark.parametrize(("dtype", "width"), [("F32", 4), ("F64", 8)])
def test_wide_numbers_are_told_right_at_the_edge_of_infinity(dtype: str, width: int) -> None:
    draw = random.Random(0)
    edge = {4: 0x7F800000, 8: 0x7FF0000000000000}[width]
    codes = [edge - 1, edge, edge + 1, edge | 1 << (8 * width - 1)]
    codes += [draw.getrandbits(8 * width) | draw.choice((0, edge)) for _ in range(2000)]
    for code in codes:
        data = code.to_bytes(width, "little")
        assert says(dtype, data, 1) == (not math.isfinite(number(dtype, data)))


def test_one_among_many_is_found_and_exponents_have_one_pattern() -> None:
    fine = struct.pack("<999f", *[3e38] * 999)
    assert not says("F32", fine, 999)
    assert says("F32", fine + struct.pack("<f", math.nan), 1000)
    assert [says("F8_E8M0", bytes([code]), 1) for code in (0, 0x7F, 0xFE, 0xFF)] == [0, 0, 0, 1]


def test_nothing_and_integers_are_finite() -> None:
    assert not says("BF16", b"", 0)
    assert not says("I8", b"\xff\x7f", 2)
