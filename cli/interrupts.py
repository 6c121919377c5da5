"""Ctrl-C, a request to end, a closed terminal in, one KeyboardInterrupt out."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # those that the system has
# a second Ctrl-C this soon is meant for the same thing, and must not disturb the cleaning up
ONCE_IN_S = 2.0

_asked = threading.Event()


@contextmanager
def interruptible() -> Iterator[None]:
    """Any of these signals raises KeyboardInterrupt inside; what is ignored (nohup) stays so."""
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    heeded = [number for number in numbers if before[number] != signal.SIG_IGN]
    last = -ONCE_IN_S

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        _asked.set()
        since, last = time.monotonic() - last, time.monotonic()
        if since >= ONCE_IN_S:
            raise KeyboardInterrupt

    _asked.clear()
    for number in heeded:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in heeded:
            signal.signal(number, before[number] or signal.SIG_DFL)


def check() -> None:
    """Raise what was asked for: an import may have swallowed the KeyboardInterrupt meanwhile."""
    if _asked.is_set():
        raise KeyboardInterrupt
