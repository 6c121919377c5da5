"""A zip archive in, its entries with their byte ranges out. Only the directory at the end is read.

Nothing is unpacked: a torch checkpoint stores its numbers uncompressed, so that they can be
mapped where they lie.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import Refused
from .safetensors import AGAIN

ENTRY_CAP = 100_000
DIRECTORY_CAP = 32 << 20  # bytes

_END = struct.Struct("<4s4H2LH")  # end of central directory
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_RECORD = struct.Struct("<4s6H3L5H2L")  # one entry of the central directory
_LOCAL = struct.Struct("<4s5H3L2H")  # what stands before the entry's bytes
_FULL = 0xFFFFFFFF  # "the number is in the zip64 field"


@dataclass(frozen=True)
class Entry:
    """One archived file: its size and where its local header lies."""

    name: str
    size: int
    header: int
    compressed: bool


class Archive:
    """The directory of the zip archive in `handle`; `name` is the file's name for refusals."""

    def __init__(self, handle: BinaryIO, name: str) -> None:
        self._handle, self._name = handle, name
        self._size = handle.seek(0, 2)
        self.entries = self._directory()

    def span(self, entry: Entry) -> tuple[int, int]:
        """[start, stop) of the entry's bytes in the file."""
        if entry.compressed:
            raise Refused(
                "zip-compressed",
                found=f"{entry.name!r} packed or encrypted in {self._name}",
                expected="entries stored as they are, as torch.save writes them",
                fix="load it with torch.load(file, weights_only=True) and save it as safetensors",
            )
        fields = self._unpack(_LOCAL, entry.header, b"PK\x03\x04")
        start = entry.header + _LOCAL.size + fields[-2] + fields[-1]
        if start + entry.size > self._size:
            raise self.broken(f"{entry.name!r} past the end of the file")
        return start, start + entry.size

    def read(self, entry: Entry) -> bytes:
        """The bytes of one small entry."""
        start, stop = self.span(entry)
        self._handle.seek(start)
        return self._handle.read(stop - start)

    def broken(self, found: str) -> Refused:
        """The refusal of an archive whose directory does not fit the file."""
        return Refused(
            "zip-broken",
            found=f"{found} in {self._name}",
            expected="a whole zip archive",
            fix=AGAIN,
        )

    def _unpack(self, layout: struct.Struct, at: int, mark: bytes) -> tuple[int, ...]:
        """The numbers of one record at byte `at`, after its four-byte mark."""
        if not 0 <= at <= self._size - layout.size:
            raise self.broken("a record past the end of the file")
        self._handle.seek(at)
        fields = layout.unpack(self._handle.read(layout.size))
        if fields[0] != mark:
            raise self.broken(f"{fields[0]!r} in place of {mark!r}")
        return fields[1:]

    def _directory(self) -> dict[str, Entry]:
        count, length, start = self._end()
        if count > ENTRY_CAP or length > DIRECTORY_CAP:
            raise Refused(
                "zip-too-many",
                found=f"a directory of {count} entries and {length} bytes in {self._name}",
                expected=f"at most {ENTRY_CAP} entries and {DIRECTORY_CAP} bytes",
                fix="get the model as safetensors",
            )
        if start + length > self._size:
            raise self.broken("the directory past the end of the file")
        self._handle.seek(start)
        data = self._handle.read(length)
        entries: dict[str, Entry] = {}
        at = 0
        for _ in range(count):
            entry, at = self._record(data, at)
            if entry.name in entries:
                raise self.broken(f"{entry.name!r} twice")
            entries[entry.name] = entry
        return entries

    def _end(self) -> tuple[int, int, int]:
        """(entries, bytes, first byte) of the central directory."""
        reach = min(self._size, _END.size + 0xFFFF)
        self._handle.seek(self._size - reach)
        tail = self._handle.read(reach)
        found = tail.rfind(b"PK\x05\x06")
        if found < 0 or found + _END.size > len(tail):
            raise Refused(
                "zip-truncated",
                found=f"no directory at the end of {self._name}",
                expected="a whole zip archive",
                fix=AGAIN,
            )
        at = self._size - reach + found
        _, _, _, count, length, start, _ = self._unpack(_END, at, b"PK\x05\x06")
        if count != 0xFFFF and length != _FULL and start != _FULL:
            return count, length, start
        _, end64, _ = self._unpack(_LOCATOR64, at - _LOCATOR64.size, b"PK\x06\x07")
        fields = self._unpack(_END64, end64, b"PK\x06\x06")
        return fields[-3], fields[-2], fields[-1]

    def _record(self, data: bytes, at: int) -> tuple[Entry, int]:
        """(entry, where the next one begins) at byte `at` of the directory."""
        if at + _RECORD.size > len(data) or not data.startswith(b"PK\x01\x02", at):
            raise self.broken("a directory that ends early")
        fields = _RECORD.unpack_from(data, at)
        flags, method, packed, size = fields[3], fields[4], fields[8], fields[9]
        name_size, extra_size, note_size, header = *fields[10:13], fields[16]
        name_at = at + _RECORD.size
        extra_at = name_at + name_size
        name = data[name_at:extra_at].decode("utf-8", "replace")
        extra = data[extra_at : extra_at + extra_size]
        size, packed, header = self._wide(extra, [size, packed, header])
        compressed = method != 0 or bool(flags & 1) or packed != size
        return Entry(name, size, header, compressed), extra_at + extra_size + note_size

    def _wide(self, extra: bytes, numbers: list[int]) -> list[int]:
        """`numbers` with those that did not fit 32 bits taken from the zip64 field of `extra`."""
        at = 0
        wide = b""
        while at + 4 <= len(extra) and not wide:
            kind, length = struct.unpack_from("<2H", extra, at)
            wide = extra[at + 4 : at + 4 + length] if kind == 1 else b""
            at += 4 + length
        if numbers.count(_FULL) * 8 > len(wide):
            raise self.broken("a size that is not given")
        values = (number[0] for number in struct.iter_unpack("<Q", wide[: len(wide) // 8 * 8]))
        return [next(values) if number == _FULL else number for number in numbers]
