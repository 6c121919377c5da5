"""GGUF files with one fault each: name of the case -> (kind of the refusal, the file's bytes)."""

from __future__ import annotations

import struct

from .gguf_file import entry, fact, gguf, text

F32, Q8_0 = 0, 8
W = entry("w", (2,), F32, 0)
ARCH = fact("general.architecture", "flux")
HUGE = 2**62


def _alignment(value: int) -> bytes:
    return gguf([fact("general.alignment", value)], [W], bytes(8))


def _many(facts: int, tensors: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, facts) + bytes(64)


GOOD = gguf(
    [ARCH, fact("tokens", ["a", "bc"] * 40), fact("sides", [1, 2])],
    [W, entry("q", (2, 32), Q8_0, 32)],
    bytes(32 + 68),
)
CASES: dict[str, tuple[str, bytes]] = {
    "the magic alone": ("gguf-truncated", b"GGUF"),
    "version 1": ("gguf-version", gguf([], [W], bytes(8), version=1)),
    "big-endian": ("byte-order", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)),
    "2^62 facts": ("gguf-too-many", _many(HUGE, 0)),
    "2^62 tensors": ("gguf-too-many", _many(0, HUGE)),
    "cut in the header": ("gguf-truncated", GOOD[:100]),
    "a key past the end": ("gguf-truncated", gguf([struct.pack("<Q", HUGE)], [])),
    "a text past the end": (
        "gguf-truncated", gguf([text("a") + struct.pack("<IQ", 8, HUGE)], [W])
    ),
    "a list past the end": (
        "gguf-truncated", gguf([text("a") + struct.pack("<IIQ", 9, 4, HUGE)], [W])
    ),
    "texts past the end": (
        "gguf-truncated",
        gguf([text("a") + struct.pack("<IIQQ", 9, 8, 3, HUGE) + bytes(64)], [W]),
    ),
    "too many texts": (
        "gguf-too-many", gguf([text("a") + struct.pack("<IIQ", 9, 8, HUGE)], [W])
    ),
    "a list of lists": ("gguf-fact", gguf([text("a") + struct.pack("<IIQ", 9, 9, 1)], [W])),
    "a fact of no type": ("gguf-fact", gguf([text("a") + struct.pack("<II", 13, 0)], [W])),
    "a fact twice": ("gguf-name-twice", gguf([ARCH, ARCH], [W], bytes(8))),
    "a tensor twice": ("gguf-name-twice", gguf([ARCH], [W, W], bytes(8))),
    "a name of 5000 bytes": (
        "header-too-large", gguf([], [entry("x" * 5000, (2,), F32, 0)], bytes(8))
    ),
    "a name of no UTF-8": (
        "header-not-utf8", gguf([], [entry(b"\xff\xfe", (2,), F32, 0)], bytes(8))
    ),
    "alignment 0": ("gguf-alignment", _alignment(0)),
    "alignment 24": ("gguf-alignment", _alignment(24)),
    "alignment 2^31": ("gguf-alignment", _alignment(1 << 31)),
    "alignment of text": (
        "gguf-alignment", gguf([fact("general.alignment", "32")[:-2] + b"xx"], [W], bytes(8))
    ),
    "an unknown type": ("gguf-type-unknown", gguf([], [entry("w", (2,), 99, 0)], bytes(8))),
    "nine sides": ("shape-invalid", gguf([], [entry("w", (1,) * 9, F32, 0)], bytes(8))),
    "2^32 sides": (
        "shape-invalid", gguf([], [text("w") + struct.pack("<I", 2**32 - 1)], bytes(64))
    ),
    "2^80 numbers": (
        "shape-overflow", gguf([], [entry("w", (2**40, 2**40), F32, 0)], bytes(8))
    ),
    "half a block": ("size-mismatch", gguf([], [entry("w", (2, 48), Q8_0, 0)], bytes(128))),
    "a scalar of blocks": ("size-mismatch", gguf([], [entry("w", (), Q8_0, 0)], bytes(128))),
    "an odd offset": ("gguf-offset", gguf([], [entry("w", (2,), F32, 8)], bytes(64))),
    "an offset of 2^63": (
        "file-truncated", gguf([], [entry("w", (2,), F32, 2**63)], bytes(64))
    ),
    "cut data": ("file-truncated", GOOD[:-1]),
    "the same bytes": (
        "offsets-overlap", gguf([], [W, entry("v", (2,), F32, 0)], bytes(64))
    ),
}  # fmt: skip
