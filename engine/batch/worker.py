"""A process that makes the files of one recipe: a task on stdin, JSON lines on stdout.

`python -m fusequant.engine.batch.worker`. Each line is {"moved": [done, total]}, and the last one
{"state": ..., "facts": ...}. It stops, leaving nothing, as soon as stdin ends: whoever asked for
the work is gone or wants it no more. Ctrl-C is for the one who asked.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping

MOVED_EVERY_S = 0.2


class _Answers:
    """Lines on what stdout was; whatever else prints, prints on stderr."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(sys.__stdout__.fileno()), "w", encoding="utf-8")  # type: ignore[union-attr]
        os.dup2(2, 1)
        self._last = 0.0
        self._lock = threading.Lock()
        self.unwanted = threading.Event()

    def say(self, line: Mapping[str, object]) -> None:
        """One line."""
        with self._lock:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def moved(self, done: int, total: int) -> None:
        """Called for every chunk; stops the work that nobody waits for."""
        if self.unwanted.is_set():
            from ..stream import Cancelled

            raise Cancelled
        if time.monotonic() - self._last >= MOVED_EVERY_S:
            self._last = time.monotonic()
            self.say({"moved": [done, total]})


def _line() -> bytes:
    """The first line of stdin, read without Python's buffer: the watcher reads on below it."""
    data = b""
    while not data.endswith(b"\n"):
        piece = os.read(0, 1 << 16)
        if not piece:
            break
        data += piece
    return data


def _watch(answers: _Answers) -> None:
    while os.read(0, 1 << 16):
        pass
    answers.unwanted.set()


def main() -> int:
    """Do the one task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = _Answers()
    task = json.loads(_line())
    threading.Thread(target=_watch, args=(answers,), daemon=True).start()
    try:
        from ..stream import Cancelled
        from .task import task_of
        from .work import work

        try:
            answers.say(work(task_of(task), answers.moved).to_json())
        except Cancelled:
            return 1
    except Exception as error:  # noqa: BLE001 - the door of a process: say it is our fault
        answers.say(fault_of(error))
    return 0


def fault_of(error: BaseException) -> dict[str, object]:
    """The answer that an error of ours is."""
    facts = {
        "kind": "internal-fault",
        "found": f"{type(error).__name__}: {error}",
        "expected": "an answer",
        "fix": "convert it alone with --debug and report the traceback",
        "traceback": "".join(traceback.format_exception(error)[-8:]),
    }
    return {"state": "failed", "facts": facts}


if __name__ == "__main__":
    raise SystemExit(main())
