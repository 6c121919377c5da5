"""A safetensors file in, a Source out: the header is checked before any number is trusted.

Layout: 8 bytes header length (little-endian), that many bytes of UTF-8 JSON, then the numbers
without gap or rest.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import Refused
from ..tensors import DTYPES, TensorSpec
from .mapping import FileSource, Span

HEADER_LIMIT = 100_000_000  # bytes, as the format has it
ENTRY_LIMIT = 16 << 20  # bytes in memory of one header entry; the longest are training notes
WINDOW = 1 << 18  # bytes of header text read at a time
COUNT_LIMIT = 1 << 63
RANK_LIMIT = 64
AGAIN = "download or write the file again"

_SPACE = re.compile(r"[ \t\r\n]*")
# An entry as nearly every writer spells it, up to the mark behind it; any other is read as JSON.
_PLAIN = re.compile(
    (
        r""" "([^"\\\x00-\x1f]*)" : \{ "dtype" : "([A-Z0-9_a-z]+)" , """
        r""""shape" : \[ ((?:#(?: , #)*)?) \] , "data_offsets" : \[ (#) , (#) \] \} ([,}])"""
    )
    .replace(" ", _SPACE.pattern)
    .replace("#", "(?:0|[1-9][0-9]{0,18})")
)


class _Plain(NamedTuple):
    """An entry that `_PLAIN` has read; `shape` as it is written, without its brackets."""

    dtype: str
    shape: str
    begin: int
    end: int

    def to_json(self) -> dict[str, Any]:
        """The same as JSON would have read it."""
        shape = [int(count) for count in self.shape.split(",")] if self.shape else []
        return {"dtype": self.dtype, "shape": shape, "data_offsets": [self.begin, self.end]}


# (dtype, shape as it is written): (shape, bytes), of entries that are checked
Known = dict[tuple[str, str], tuple[tuple[int, ...], int]]


class _TwiceError(ValueError):
    """A JSON object names the same field twice."""


def open_safetensors(path: Path) -> FileSource:
    """Open the file at `path`; torch is not imported before the first tensor is asked for."""
    handle = path.open("rb")
    try:
        size = handle.seek(0, 2)
        tensors, spans, metadata = read_header(handle, size, path.name)
    except BaseException:
        handle.close()
        raise
    return FileSource(path, "safetensors", handle, tensors, spans, metadata)


def read_header(
    handle: BinaryIO, size: int, name: str
) -> tuple[dict[str, TensorSpec], dict[str, Span], dict[str, str]]:
    """(tensors, byte ranges, metadata) of a file of `size` bytes, tensors in byte order."""
    length = header_length(handle, size, name)
    metadata: dict[str, str] | None = None
    entries: dict[str, tuple[TensorSpec, int, int]] = {}
    known: Known = {}
    for key, value in _Text(handle, length, name).entries():
        if key in entries or (key == "__metadata__" and metadata is not None):
            raise _fault(
                "header-name-twice", f"{key!r} twice in the header of {name}", "names once"
            )
        if key == "__metadata__":
            metadata = _metadata(value, name)
        elif isinstance(value, _Plain):
            entries[key] = _plain_entry(key, value, known, name)
        else:
            entries[key] = _entry(key, value, name)
    placed = sorted(entries.values(), key=lambda entry: (entry[1], entry[2]))
    _check_cover(placed, size - 8 - length, name)
    base = 8 + length
    tensors = {spec.name: spec for spec, _, _ in placed}
    spans = {spec.name: Span(base + begin, base + end) for spec, begin, end in placed}
    return tensors, spans, metadata or {}


def header_length(handle: BinaryIO, size: int, name: str) -> int:
    """The header's length, checked against cap and file size; `handle` is left at its start."""
    handle.seek(0)
    if size < 8:
        raise _fault(
            "file-too-short", f"{size} bytes in {name}", "at least 8 bytes of header length"
        )
    length = int.from_bytes(handle.read(8), "little")
    if length > HEADER_LIMIT:
        raise _fault(
            "header-too-large", f"a header of {length} bytes in {name}", f"at most {HEADER_LIMIT}"
        )
    if length < 2:
        raise _fault("header-too-small", f"a header of {length} bytes in {name}", "at least {}")
    if 8 + length > size:
        raise _fault(
            "header-truncated",
            f"{size} bytes in {name}, whose header alone ends at {8 + length}",
            "the whole header",
        )
    return length


class _Text:
    """The header as JSON text, held a window at a time: a hostile header costs no memory."""

    def __init__(self, handle: BinaryIO, length: int, name: str) -> None:
        self._handle, self._left, self._name = handle, length, name
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder(object_pairs_hook=_once)
        self._text, self._at = "", 0

    def entries(self) -> Iterator[tuple[str, Any]]:
        """Each (key, value) of the outermost object, in file order."""
        self._fill(WINDOW)
        if not self._text.startswith("{"):
            raise _fault(
                "header-start", f"{self._text[:1]!r} first in the header of {self._name}", "'{'"
            )
        self._at = 1
        mark = self._peek()
        if mark == "}":
            self._at += 1
        while mark != "}":
            if plain := _PLAIN.match(self._text, self._at):
                self._at = plain.end()
                key, dtype, shape, begin, end, mark = plain.groups()
                yield key, _Plain(dtype, shape, int(begin), int(end))
                continue
            if self._peek() != '"':
                raise self._bad("a name in quotes")
            key = self._value()
            try:
                key.encode()
            except UnicodeEncodeError:
                raise self._bad("names of whole characters", "header-not-utf8") from None
            if self._peek() != ":":
                raise self._bad("':' after a name")
            self._at += 1
            self._peek()
            yield key, self._value()
            mark = self._peek()
            if mark not in (",", "}"):
                raise self._bad("',' or '}' after an entry")
            self._at += 1
        if self._peek():
            raise self._bad("only spaces after the last '}'")

    def _peek(self) -> str:
        """Skip white space; the next character, or nothing at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._left:
                return ""
            self._fill(WINDOW)

    def _value(self) -> Any:
        """The JSON string or object at the present place."""
        window = WINDOW
        while True:
            try:
                value, self._at = self._json.raw_decode(self._text, self._at)
                return value
            except _TwiceError as fault:
                raise self._bad(
                    f"each field once, not {fault} twice", "header-field-twice"
                ) from None
            except RecursionError:
                raise self._bad("objects one level deep") from None
            except ValueError as fault:
                if not self._left or self._is_certain(fault):
                    raise self._bad("valid JSON") from None
            if sys.getsizeof(self._text) > ENTRY_LIMIT:
                raise self._bad(f"entries of at most {ENTRY_LIMIT} bytes", "header-entry-too-large")
            window *= 4
            self._fill(window)

    def _is_certain(self, fault: ValueError) -> bool:
        """Whether more text cannot mend `fault`: it stands before the end and in no string."""
        if not isinstance(fault, json.JSONDecodeError) or fault.msg.startswith("Unterminated"):
            return False
        return fault.pos + 32 < len(self._text)

    def _fill(self, count: int) -> None:
        """Drop the text before the present place and read up to `count` bytes more."""
        data = self._handle.read(min(count, self._left))
        self._left -= len(data)
        if not data:
            self._left = 0
        try:
            text = self._utf8.decode(data, final=not self._left)
        except UnicodeDecodeError as fault:
            raise _fault(
                "header-not-utf8", f"{fault.reason} in the header of {self._name}", "UTF-8 text"
            ) from None
        self._text, self._at = self._text[self._at :] + text, 0

    def _bad(self, expected: str, kind: str = "header-not-json") -> Refused:
        near = self._text[self._at : self._at + 24]
        return _fault(kind, f"{near!r} in the header of {self._name}", expected)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [key for key, _ in pairs]
        raise _TwiceError(repr(next(key for key in names if names.count(key) > 1)))
    return fields


def _metadata(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _fault(
            "header-metadata", f"__metadata__ of {name} with other than text", "text to text"
        )
    return value


def _plain_entry(key: str, plain: _Plain, known: Known, name: str) -> tuple[TensorSpec, int, int]:
    """As `_entry`; a dtype and shape that were checked once are known by how they are written."""
    dtype, written, begin, end = plain
    shape, size = known.get((dtype, written), ((), -1))
    if end - begin == size:
        return TensorSpec(key, dtype, shape), begin, end
    entry = _entry(key, plain.to_json(), name)
    known[dtype, written] = (entry[0].shape, end - begin)
    return entry


def _entry(key: str, info: Any, name: str) -> tuple[TensorSpec, int, int]:
    """One header entry checked on its own: (spec, first byte, end), relative to the data."""
    where = f"tensor {key!r} of {name}"
    if not isinstance(info, dict) or not {"dtype", "shape", "data_offsets"} <= info.keys():
        raise _fault(
            "header-entry", f"{where} described as {_short(info)}", "dtype, shape, data_offsets"
        )
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Refused(
            "dtype-unknown",
            found=f"{where} as {_short(dtype)}",
            expected=", ".join(DTYPES),
            fix="convert the tensor to one of these dtypes with the tool that wrote the file",
        )
    if not _counts(shape) or len(shape) > RANK_LIMIT:
        raise _fault("shape-invalid", f"{where} of shape {_short(shape)}", "a list of counts")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _fault(
            "offsets-invalid", f"{where} at {_short(offsets)}", "[first byte, end], ascending"
        )
    bits = math.prod(shape) * DTYPES[dtype][0]
    if (bits or math.prod(filter(None, shape)) * DTYPES[dtype][0]) >= COUNT_LIMIT:
        raise _fault(
            "shape-overflow", f"{where} of shape {_short(shape)}", "a size that fits 63 bits"
        )
    begin, end = offsets
    if bits != (end - begin) * 8 or (dtype == "F4" and shape[-1] % 2):
        raise _fault(
            "size-mismatch",
            f"{where} with {end - begin} bytes for {dtype} {_short(shape)}",
            f"{bits / 8:g} bytes",
        )
    return TensorSpec(key, dtype, tuple(shape)), begin, end


def _check_cover(placed: list[tuple[TensorSpec, int, int]], size: int, name: str) -> None:
    """Tensors in byte order must follow each other without gap and end where the file ends."""
    at = 0
    for spec, begin, end in placed:
        if begin != at:
            kind = "offsets-overlap" if begin < at else "offsets-hole"
            raise _fault(kind, f"tensor {spec.name!r} of {name} at byte {begin}", f"byte {at}")
        at = end
    if at > size:
        raise _fault("file-truncated", f"{size} bytes of data in {name}", f"{at} bytes")
    if at < size:
        raise _fault("bytes-after-data", f"{size} bytes of data in {name}", f"{at} bytes")


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(item) is int and item >= 0 for item in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fault(kind: str, found: str, expected: str) -> Refused:
    return Refused(kind, found=found, expected=expected, fix=AGAIN)
