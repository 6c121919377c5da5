"""How each recipe ended in, a log beside the recipes out: JSON lines, one batch at a time.

The log tells what happened and how fast; what is done is told by the files themselves.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ..errors import Refused
from ..files.writer import unwritable

_LOCK_AT = 1 << 40  # a byte beyond any log: Windows lets nobody read what is locked
_READ_BYTES = 4 << 20  # of the end of a long log


def usual_path(recipes: Path) -> Path:
    """`RECIPES.toml` -> `RECIPES.toml.log` beside it."""
    return recipes.with_name(recipes.name + ".log")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The latest lines of a log; a line that was cut off is passed over."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _READ_BYTES))
            texts = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    found = []
    for text in texts:
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict):
                found.append(line)
    return found


class Journal:
    """Context manager around one run: the log is open and locked, so that no other run of the
    same recipes is under way.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def __enter__(self) -> Journal:
        try:
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as fault:
            raise unwritable(self.path, fault) from fault
        if not _locked(self._file):
            self._file.close()
            raise Refused(
                "batch-running",
                found=f"another process at work with {self.path}",
                expected="one batch at a time for these recipes",
                fix="wait until it has ended, or end it",
            )
        return self

    def write(self, line: Mapping[str, object]) -> None:
        """One line, with the time; on the disk before the next recipe ends."""
        if self._file is not None:
            at = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            self._file.write(json.dumps({"at": at, **line}, ensure_ascii=False) + "\n")
            self._file.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()  # and the lock is gone with it


def _locked(file: TextIO) -> bool:
    """Take the lock that the system lets go of when the process ends; False if it is taken."""
    try:
        if os.name == "nt":
            windows: Any = importlib.import_module("msvcrt")
            os.lseek(file.fileno(), _LOCK_AT, os.SEEK_SET)
            windows.locking(file.fileno(), windows.LK_NBLCK, 1)
        else:
            posix: Any = importlib.import_module("fcntl")
            posix.flock(file.fileno(), posix.LOCK_EX | posix.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system that has no locks
        return True
    return True
