"""A small stored tensor in, facts about its numbers out; from its bytes, without torch."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .source import Source
from .tensors import TensorSpec


@dataclass(frozen=True)
class Bits:
    """A float as an unsigned integer: struct code, first pattern that is not finite, sign bit."""

    code: str
    infinite: int
    sign: int


BITS = {
    "F64": Bits("Q", 0x7FF0000000000000, 1 << 63),
    "F32": Bits("I", 0x7F800000, 1 << 31),
    "F16": Bits("H", 0x7C00, 1 << 15),
    "BF16": Bits("H", 0x7F80, 1 << 15),
    "F8_E8M0": Bits("B", 0xFF, 1 << 8),
}


def patterns(source: Source, spec: TensorSpec, code: str) -> Sequence[int]:
    """The numbers of a tensor as the integers that their bits are, by a struct code."""
    found: Sequence[int] = memoryview(source.read_bytes(spec.name)).cast(code)  # type: ignore[call-overload]
    return found


def not_finite(source: Source, spec: TensorSpec) -> bool:
    """A plain tensor holds NaN or infinity."""
    bits = BITS.get(spec.dtype)
    if (
        bits is None
        or not spec.elements
        or not _may_be_infinite(source.read_bytes(spec.name), bits)
    ):
        return False
    return any(code % bits.sign >= bits.infinite for code in patterns(source, spec, bits.code))


def _may_be_infinite(data: bytes, bits: Bits) -> bool:
    """The highest byte of a number is one that infinity and NaN have; large numbers have it too."""
    width = struct.calcsize(bits.code)
    below = 8 * (width - 1)
    positive, infinite = bits.sign >> below, bits.infinite >> below
    suspicious = bytes(code for code in range(256) if code % positive >= infinite)
    highest = data[width - 1 :: width]
    return len(highest.translate(None, suspicious)) < len(highest)


def values(source: Source, spec: TensorSpec) -> list[float]:
    """The numbers of a small float tensor as Python floats."""
    data = source.read_bytes(spec.name)
    if spec.dtype == "BF16":
        wide = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))
        return list(struct.unpack(f"<{len(data) // 2}f", wide))
    if spec.dtype == "F8_E8M0":
        return [math.nan if code == 0xFF else 2.0 ** (code - 127) for code in data]
    letter = {"F64": "d", "F32": "f", "F16": "e"}[spec.dtype]
    return list(struct.unpack(f"<{spec.elements}{letter}", data))


def integers(source: Source, spec: TensorSpec) -> list[int]:
    """The numbers of a small tensor of 32 or 64-bit integers; none of another dtype."""
    letter = {"I64": "q", "I32": "i"}.get(spec.dtype)
    if letter is None:
        return []
    return list(struct.unpack(f"<{spec.elements}{letter}", source.read_bytes(spec.name)))


def all_zero(source: Source, spec: TensorSpec) -> bool:
    """Every number of a float tensor is 0 or -0."""
    bits = BITS.get(spec.dtype)
    if bits is None:
        data = source.read_bytes(spec.name)
        return data.count(0) == len(data)
    return set(patterns(source, spec, bits.code)) <= {0, bits.sign}
