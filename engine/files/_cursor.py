"""An open binary file in, its numbers and texts one after another out, never past its end.

The file is read a window at a time; what is passed over is not read, so a hostile length costs
neither memory nor time.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

from ..errors import Refused
from .safetensors import AGAIN

WINDOW = 1 << 18
KEPT_CAP = 16 << 20  # bytes of all texts that are kept
_LENGTH = struct.Struct("<Q")


class Cursor:
    """A place in a file of `size` bytes; `name` is the file's name for refusals."""

    def __init__(self, handle: BinaryIO, size: int, name: str) -> None:
        self._handle, self._size, self._name = handle, size, name
        self._start, self._window = 0, b""
        self._kept = 0
        self.at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes, which the caller knows to be few."""
        self._need(count)
        first = self.at - self._start
        if not 0 <= first <= len(self._window) - count:
            self._handle.seek(self.at)
            self._start, first = self.at, 0
            self._window = self._handle.read(max(WINDOW, count))
        self.at += count
        return self._window[first : first + count]

    def number(self, code: str, size: int) -> Any:
        """The next number, by its struct code and size."""
        return struct.unpack(f"<{code}", self.take(size))[0]

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        self._need(count)
        self.at += count

    def text(self, cap: int) -> str:
        """The next text, of at most `cap` bytes."""
        length = self.number("Q", 8)
        self._need(length)
        if length > cap or self._kept + length > KEPT_CAP:
            raise Refused(
                "header-too-large",
                found=f"a name of {length} bytes after {self._kept} of text in {self._name}",
                expected=f"up to {cap}, and {KEPT_CAP} together",
                fix=AGAIN,
            )
        return self._decoded(length)

    def text_or_skip(self, cap: int) -> str | None:
        """The next text, or None where it is longer than `cap` bytes."""
        length = self.number("Q", 8)
        if length > cap or self._kept + length > KEPT_CAP:
            self.skip(length)
            return None
        return self._decoded(length)

    def skip_texts(self, count: int) -> None:
        """Pass over `count` texts: a tokenizer has hundreds of thousands of them."""
        self._need(_LENGTH.size * count)
        unpack = _LENGTH.unpack_from
        while count:
            self.take(_LENGTH.size)  # now the window holds one length at least
            data, place = self._window, self.at - self._start - _LENGTH.size
            last = len(data) - _LENGTH.size
            while count and place <= last:
                place += _LENGTH.size + unpack(data, place)[0]
                count -= 1
            self.at = self._start + place
            self._need(_LENGTH.size * count)

    def _need(self, count: int) -> None:
        if count > self._size - self.at:
            raise self._truncated(self.at + count)

    def _truncated(self, end: int) -> Refused:
        return Refused(
            "gguf-truncated",
            found=f"{self._size} bytes in {self._name}, whose header goes on to {end}",
            expected="the whole header",
            fix=AGAIN,
        )

    def _decoded(self, length: int) -> str:
        self._kept += length
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as fault:
            raise Refused(
                "header-not-utf8",
                found=f"{fault.reason} in the header of {self._name}",
                expected="UTF-8 text",
                fix=AGAIN,
            ) from None
