"""A GGUF file in, a Source out: its header is read here, without the gguf package and torch.

Layout, little-endian: "GGUF", version, counts of tensors and of facts; the facts (key, type,
value); for each tensor its name, sides from the innermost to the outermost, type and place; then
the numbers, each tensor at a multiple of the alignment. Codes are handed out as the bytes of their
blocks, U8 (.., bytes of a row); the metadata tells each tensor's type under `ggml_type:NAME`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import BinaryIO

from ..errors import Refused
from ..ggml import TYPE_MARK, TYPES, GgmlType
from ..tensors import TensorSpec
from ._cursor import Cursor
from .mapping import FileSource, Span
from .safetensors import AGAIN, COUNT_LIMIT

VERSIONS = (2, 3)
COUNT_CAP = 1 << 16  # of facts, and of tensors
RANK_CAP = 8
NAME_CAP = 4096  # bytes
TEXT_CAP = 1 << 16  # bytes; a longer fact (a tokenizer's) is passed over
LISTED_CAP = 16  # numbers; a longer list is passed over
STRINGS_CAP = 1 << 21  # of all lists together: the vocabularies of a tokenizer
ALIGNMENT, ALIGNMENT_CAP = 32, 1 << 20
_STRING, _LIST = 8, 9
# fact type: (struct code, bytes)
_NUMBERS = {
    0: ("B", 1), 1: ("b", 1), 2: ("H", 2), 3: ("h", 2), 4: ("I", 4), 5: ("i", 4), 6: ("f", 4),
    7: ("?", 1), 10: ("Q", 8), 11: ("q", 8), 12: ("d", 8),
}  # fmt: skip
_ENTRY = tuple[str, GgmlType, tuple[int, ...], int]


def open_gguf(path: Path) -> FileSource:
    """Open the file at `path`; torch is not imported before the first tensor is asked for."""
    handle = path.open("rb")
    try:
        size = handle.seek(0, 2)
        tensors, spans, metadata = read_header(handle, size, path.name)
    except BaseException:
        handle.close()
        raise
    return FileSource(path, "gguf", handle, tensors, spans, metadata)


def read_header(
    handle: BinaryIO, size: int, name: str
) -> tuple[dict[str, TensorSpec], dict[str, Span], dict[str, str]]:
    """(tensors, byte ranges, metadata) of a file of `size` bytes, tensors in the file's order."""
    cursor = Cursor(handle, size, name)
    cursor.take(4)
    _check_version(cursor.number("I", 4), name)
    tensors, facts = cursor.number("Q", 8), cursor.number("Q", 8)
    if max(tensors, facts) > COUNT_CAP:
        raise _fault(
            "gguf-too-many", f"{tensors} tensors and {facts} facts in {name}", f"up to {COUNT_CAP}"
        )
    metadata = _facts(cursor, facts, name)
    entries = [_entry(cursor, name) for _ in range(tensors)]
    alignment = _alignment(metadata, name)
    base = -(-cursor.at // alignment) * alignment
    specs: dict[str, TensorSpec] = {}
    spans: dict[str, Span] = {}
    for key, kind, shape, offset in entries:
        if key in specs:
            raise _fault("gguf-name-twice", f"the tensor {key!r} twice in {name}", "names once")
        specs[key], length = _spec(key, kind, shape, name)
        if offset % alignment:
            raise _fault(
                "gguf-offset", f"tensor {key!r} of {name} at {offset}", f"a multiple of {alignment}"
            )
        spans[key] = Span(base + offset, base + offset + length)
        metadata[TYPE_MARK + key] = kind.name
    _check_spans(spans, size, name)
    return specs, spans, metadata


def _check_version(version: int, name: str) -> None:
    if version in VERSIONS:
        return
    if int.from_bytes(version.to_bytes(4, "big"), "little") in VERSIONS:
        raise Refused(
            "byte-order",
            found=f"numbers in big-endian byte order in {name}",
            expected="little-endian",
            fix="get the file for little-endian machines",
        )
    raise Refused(
        "gguf-version",
        found=f"version {version} in {name}",
        expected="GGUF version 2 or 3",
        fix="convert the model again with a current llama.cpp or ComfyUI-GGUF",
    )


def _facts(cursor: Cursor, count: int, name: str) -> dict[str, str]:
    """Numbers, texts and short lists of numbers by key, as text; what is longer is left out."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    strings = 0
    for _ in range(count):
        key = cursor.text(NAME_CAP)
        if key in seen:
            raise _fault("gguf-name-twice", f"the fact {key!r} twice in {name}", "names once")
        seen.add(key)
        kind = cursor.number("I", 4)
        if kind == _STRING:
            value: str | None = cursor.text_or_skip(TEXT_CAP)
        elif kind == _LIST:
            value, passed = _list(cursor, key, name)
            strings += passed
        else:
            value = str(cursor.number(*_number(kind, key, name)))
        if strings > STRINGS_CAP:
            raise _fault("gguf-too-many", f"{strings} texts in {name}", f"up to {STRINGS_CAP}")
        if value is not None:
            found[key] = value
    return found


def _list(cursor: Cursor, key: str, name: str) -> tuple[str | None, int]:
    """(a short list of numbers as JSON, else None; how many texts were passed over)."""
    kind, count = cursor.number("I", 4), cursor.number("Q", 8)
    if kind == _STRING:
        if count > STRINGS_CAP:
            raise _fault(
                "gguf-too-many", f"{count} texts under {key!r} in {name}", f"up to {STRINGS_CAP}"
            )
        cursor.skip_texts(count)
        return None, count
    code, size = _number(kind, key, name)
    if count > LISTED_CAP:
        cursor.skip(count * size)
        return None, 0
    return json.dumps([cursor.number(code, size) for _ in range(count)]), 0


def _number(kind: int, key: str, name: str) -> tuple[str, int]:
    if kind not in _NUMBERS:
        raise _fault("gguf-fact", f"the fact {key!r} of type {kind} in {name}", "a type of GGUF")
    return _NUMBERS[kind]


def _alignment(metadata: dict[str, str], name: str) -> int:
    text = metadata.get("general.alignment", str(ALIGNMENT))
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= ALIGNMENT_CAP or value & (value - 1):
        raise _fault(
            "gguf-alignment", f"an alignment of {text[:20]} in {name}", "a power of 2 up to 1 MiB"
        )
    return value


def _entry(cursor: Cursor, name: str) -> _ENTRY:
    """(name, type, shape from the outermost side, offset from the first tensor) of one tensor."""
    key = cursor.text(NAME_CAP)
    rank = cursor.number("I", 4)
    if rank > RANK_CAP:
        raise _fault("shape-invalid", f"tensor {key!r} of {name} with {rank} sides", "up to 8")
    sides = [cursor.number("Q", 8) for _ in range(rank)]
    kind, offset = cursor.number("I", 4), cursor.number("Q", 8)
    if kind not in TYPES:
        raise Refused(
            "gguf-type-unknown",
            found=f"tensor {key!r} of {name} as type {kind}",
            expected=", ".join(known.name for known in TYPES.values()),
            fix="get the model in one of these types, such as Q8_0 or Q4_K",
        )
    return key, TYPES[kind], tuple(reversed(sides)), offset


def _spec(key: str, kind: GgmlType, shape: tuple[int, ...], name: str) -> tuple[TensorSpec, int]:
    """A tensor as it is stored, and its bytes in the file."""
    where = f"tensor {key!r} of {name}"
    if math.prod(side for side in shape if side) * kind.size * 8 >= COUNT_LIMIT:
        raise _fault("shape-overflow", f"{where} of {list(shape)}", "a size that fits 63 bits")
    if kind.dtype is not None:
        return TensorSpec(key, kind.dtype, shape), math.prod(shape) * kind.size
    if not shape or shape[-1] % kind.elements:
        raise _fault(
            "size-mismatch",
            f"{where} of {list(shape)} in {kind.name}",
            f"rows of whole blocks of {kind.elements}",
        )
    stored = (*shape[:-1], shape[-1] // kind.elements * kind.size)
    return TensorSpec(key, "U8", stored), math.prod(stored)


def _check_spans(spans: dict[str, Span], size: int, name: str) -> None:
    """No tensor begins inside another one or ends after the file."""
    at = 0
    for key, span in sorted(spans.items(), key=lambda item: (item[1].start, item[1].stop)):
        if span.stop > size:
            raise _fault(
                "file-truncated",
                f"{size} bytes in {name}, whose tensor {key!r} ends at {span.stop}",
                "the whole file",
            )
        if span.start < at:
            raise _fault(
                "offsets-overlap", f"tensor {key!r} of {name} at byte {span.start}", f"{at} or more"
            )
        at = max(at, span.stop)


def _fault(kind: str, found: str, expected: str) -> Refused:
    return Refused(kind, found=found, expected=expected, fix=AGAIN)
