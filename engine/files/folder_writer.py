"""File names with their tensor specs in, a folder of safetensors files and an index out.

The folder grows under a temporary name beside the target and is renamed only when all is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from ..errors import Refused
from ..tensors import TensorSpec
from .writer import SPARE_BYTES, Writer, size_of, unwritable


class FolderWriter:
    """Context manager with the shape of `Writer`: leaving it puts the folder in place, leaving by
    exception removes all that was written.
    """

    def __init__(
        self,
        target: Path,
        files: Mapping[str, Sequence[TensorSpec]],
        metadata: Mapping[str, str],
        index: str,
        before_rename: Callable[[], None] = lambda: None,
    ) -> None:
        """`index` names the JSON file that says which tensor is where."""
        self.target = Path(target)
        self._files, self._metadata = files, metadata
        self._before_rename = before_rename
        self._temporary = self.target.with_name(f".fusequant-{secrets.token_hex(8)}.partial")
        self._owner: dict[str, Writer] = {}
        self._writers = contextlib.ExitStack()
        self._index_name = index
        self._index = index_of(files, metadata)
        self.size_bytes = folder_size(files, metadata)
        try:
            self._check_target()
        except OSError as fault:
            raise unwritable(self.target, fault) from fault

    def write(self, name: str, data: memoryview, at: int = 0) -> None:
        """Put `data` at byte `at` of tensor `name`; safe from several threads."""
        self._owner[name].write(name, data, at)

    def __enter__(self) -> FolderWriter:
        try:
            self._temporary.mkdir()
            for file, specs in self._files.items():
                writer = Writer(self._temporary / file, specs, self._metadata)
                self._writers.enter_context(writer)
                self._owner.update({spec.name: writer for spec in specs})
        except OSError as fault:
            self._discard()
            raise unwritable(self.target, fault) from fault
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._writers.__exit__(kind, error, trace)
            if kind is None:
                self._finish()
        except OSError as fault:
            raise unwritable(self.target, fault) from fault
        finally:
            self._discard()

    def _finish(self) -> None:
        with (self._temporary / self._index_name).open("wb") as file:
            file.write(self._index)
            file.flush()
            os.fsync(file.fileno())
        self._before_rename()
        if self.target.is_dir():
            self.target.rmdir()  # an empty one: no system but POSIX renames over it
        os.rename(self._temporary, self.target)

    def _discard(self) -> None:
        self._writers.close()
        if self._temporary.exists():
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _check_target(self) -> None:
        folder = self.target.parent
        if not folder.is_dir():
            raise Refused(
                "no-such-folder",
                found=f"{folder} does not exist",
                expected="an existing folder to write into",
                fix="create the folder or choose another --out",
            )
        if self.target.exists() and not self.target.is_dir():
            raise Refused(
                "target-is-file",
                found=f"{self.target} is a file",
                expected="the name of a new folder for the model's files",
                fix="choose another --out, or leave --by-block out",
            )
        if self.target.is_dir() and any(self.target.iterdir()):
            raise Refused(
                "folder-not-empty",
                found=f"{self.target} with files in it",
                expected="a new or an empty folder",
                fix="choose another --out, or remove what is there",
            )
        free = shutil.disk_usage(folder).free
        if free < self.size_bytes + SPARE_BYTES:
            raise Refused(
                "disk-full",
                found=f"{free / 1e9:.2f} GB free in {folder}",
                expected=f"{(self.size_bytes + SPARE_BYTES) / 1e9:.2f} GB for the new files",
                fix="free some space or choose --out on another disk",
            )


def index_of(files: Mapping[str, Sequence[TensorSpec]], metadata: Mapping[str, str]) -> bytes:
    """The index: the size of all files, and the file of each tensor."""
    total = sum(size_of(specs, metadata) for specs in files.values())
    weight_map = {spec.name: file for file, specs in files.items() for spec in specs}
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(content, indent=2) + "\n").encode()


def folder_size(files: Mapping[str, Sequence[TensorSpec]], metadata: Mapping[str, str]) -> int:
    """The exact size of all files of the folder, its index among them."""
    weights = sum(size_of(specs, metadata) for specs in files.values())
    return weights + len(index_of(files, metadata))
