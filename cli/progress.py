"""Bytes done in, a progress line on stderr out: share, rate, time left; silent in a pipe."""

from __future__ import annotations

import sys
import time

from . import interrupts

_EVERY_S = 0.1
_WIDTH = 28


class Bar:
    """Call it with (done, total) bytes from any thread; it draws at most ten times a second.

    Where the user asked to stop, the call raises KeyboardInterrupt.
    """

    def __init__(self, label: str, *, quiet: bool = False) -> None:
        self._label = label
        self._shown = sys.stderr.isatty() and not quiet
        self._start = time.monotonic()
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        interrupts.check()
        now = time.monotonic()
        if not self._shown or (now - self._last < _EVERY_S and done < total):
            return
        self._last = now
        share = done / total if total else 1.0
        rate = done / max(now - self._start, 1e-6)
        left = (total - done) / rate if rate else 0.0
        bar = f"{'█' * round(share * _WIDTH):<{_WIDTH}}"
        speed = f"{rate / 1e9:.2f} GB/s  {left:3.0f} s left "
        sys.stderr.write(f"\r{self._label} {bar} {share:4.0%}  {speed}")
        sys.stderr.flush()

    def count(self, done: int, total: int) -> None:
        """The same for things that have no size: `planning 12/100`."""
        interrupts.check()
        if self._shown:
            self._last = time.monotonic()
            sys.stderr.write(f"\r{self._label} {done}/{total} ")
            sys.stderr.flush()

    def clear(self) -> None:
        """Wipe the line out, so that another may stand there."""
        if self._shown and self._last:
            sys.stderr.write("\r\x1b[K")
            self._last = 0.0

    def close(self) -> None:
        """End the line."""
        if self._shown and self._last:
            sys.stderr.write("\n")
