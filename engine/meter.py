"""Counts of what several threads have done in, one growing number for a progress function out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

Progress = Callable[[int, int], None]  # (bytes done, bytes in all); what it raises ends the work


def silent(done: int, total: int) -> None:
    """The progress of a caller that does not look."""


@dataclass
class Meter:
    """Adds up what is done and tells it; what `progress` raises passes on."""

    progress: Progress
    total: int
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        """Tell that `count` more is done."""
        with self.lock:
            self.done += count
            self.progress(min(self.done, self.total), self.total)
