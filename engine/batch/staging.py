"""Files of a recipe in, all of them in their places out, or none: made aside, then moved together.

A folder of its own beside each output, on the same disk: moving is a rename, and what a killed
process leaves is found by the folder's name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from ..files.writer import unwritable

_CLEAR_S = 5.0  # a process that was just killed may still write for a moment


class Staging:
    """Context manager around one attempt at a recipe; at its end the folders are empty."""

    def __init__(self, prefix: str, outs: Sequence[Path]) -> None:
        self._prefix = prefix
        self._outs = tuple(outs)
        self._folders: dict[Path, Path] = {}
        self.attempt = 0

    def __enter__(self) -> Staging:
        parents = dict.fromkeys(out.parent for out in self._outs)
        try:
            self._folders = {parent: self._claim(parent) for parent in parents}
        except OSError as fault:
            raise unwritable(self._outs[0], fault) from fault
        return self

    def _claim(self, parent: Path) -> Path:
        """The next folder; those of earlier attempts stay as their count, emptied."""
        number = 1
        while True:
            folder = parent / f"{self._prefix}{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                _empty(folder)
                number += 1
                continue
            self.attempt = max(self.attempt, number)
            return folder

    def place(self, out: Path) -> Path:
        """Where the file is made that `out` will be."""
        return self._folders[out.parent] / out.name

    def commit(self) -> None:
        """Move every file to its place; if one cannot be, the others are as before."""
        touched: list[Path] = []
        for out in self._outs:
            touched.append(out)
            try:
                # to be put back if a later one fails; a folder cannot be renamed over another
                if out.is_dir() or (len(self._outs) > 1 and out.exists()):
                    os.replace(out, self._before(out))
                os.replace(self.place(out), out)
            except OSError as fault:
                for each in touched:
                    self._take_back(each)
                raise unwritable(out, fault) from fault

    def _before(self, out: Path) -> Path:
        return self.place(out).with_name(f"before-{out.name}")

    def _take_back(self, out: Path) -> None:
        with contextlib.suppress(OSError):
            if not self.place(out).exists():
                _remove(out)
            if self._before(out).exists():
                os.replace(self._before(out), out)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for folder in self._folders.values():
            _empty(folder)


def _empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def clear(prefix: str, folders: Iterable[Path], patience_s: float = _CLEAR_S) -> None:
    """Remove every folder whose name begins so, with all in it."""
    until = time.monotonic() + patience_s
    while True:
        left = [
            path
            for folder in dict.fromkeys(folders)
            if folder.is_dir()
            for path in folder.iterdir()
            if path.name.startswith(prefix) and path.is_dir()
        ]
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        if not [path for path in left if path.exists()] or time.monotonic() > until:
            return
        time.sleep(0.1)
