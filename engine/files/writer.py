"""Tensor specs and metadata in, a safetensors file out, written at known offsets by many threads.

The file grows under a temporary name in the target's folder and is renamed only when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from ..errors import Refused
from ..tensors import DTYPES, TensorSpec

SPARE_BYTES = 16 << 20  # what the file system may need beside the data
_SYNC_EVERY_BYTES = 128 << 20
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def header_of(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> tuple[bytes, list[int]]:
    """The header, length prefix included and padded to 8 bytes, and each tensor's data offset."""
    entries: dict[str, object] = (
        {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    )
    starts, end = [], 0
    for spec in specs:
        starts.append(end)
        end += spec.size_bytes
        entries[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [starts[-1], end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, starts


def in_file_order(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Widest dtype first, then by name: every tensor is aligned to its own element size."""
    return sorted(specs, key=lambda spec: (-DTYPES[spec.dtype][0], spec.name))


def size_of(specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> int:
    """The exact size of the file that `Writer` makes of these."""
    header, _ = header_of(in_file_order(specs), metadata)
    return len(header) + sum(spec.size_bytes for spec in specs)


def unwritable(path: Path, fault: OSError) -> Refused:
    """The refusal of a place that the system does not let us write to."""
    told = fault.strerror or str(fault)
    if fault.errno in _NO_ROOM:
        return Refused(
            "disk-full",
            found=f"no room for the rest of {path}: {told}",
            expected="room for the whole file",
            fix="free some space, raise the quota or choose a place on another disk",
        )
    return Refused(
        "not-writable",
        found=f"{path}, where the system refuses to write: {told}",
        expected="a place that you may write to",
        fix="choose another place, or change its permissions",
    )


class Writer:
    """Context manager: entering it claims the space under a temporary name, leaving it puts the
    file in place, leaving by exception removes it.
    """

    def __init__(
        self,
        target: Path,
        specs: Sequence[TensorSpec],
        metadata: Mapping[str, str],
        before_rename: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_rename` closes maps of a file that the target may replace."""
        ordered = in_file_order(specs)
        header, starts = header_of(ordered, metadata)
        self.target = Path(target)
        self._before_rename = before_rename
        self._sizes = {spec.name: spec.size_bytes for spec in ordered}
        self._starts = {s.name: len(header) + at for s, at in zip(ordered, starts, strict=True)}
        self.size_bytes = len(header) + sum(self._sizes.values())
        self._header = header
        self._temporary = self.target.with_name(f".fusequant-{secrets.token_hex(8)}.partial")
        self._file = -1
        self._lock = threading.Lock()
        self._unsynced = 0
        self._error: OSError | None = None
        self._syncer: threading.Thread | None = None
        with self._told():
            self._check_target()

    def write(self, name: str, data: memoryview, at: int = 0) -> None:
        """Put `data` at byte `at` of tensor `name`; safe from several threads."""
        if at + data.nbytes > self._sizes[name]:
            raise ValueError(f"{name}: {at}+{data.nbytes} bytes do not fit in {self._sizes[name]}")
        with self._told():
            self._write_all(data, self._starts[name] + at)
        with self._lock:
            self._unsynced += data.nbytes
            due = self._unsynced >= _SYNC_EVERY_BYTES and self._syncer is None
            if due:
                self._unsynced = 0
                self._syncer = threading.Thread(target=self._sync_early, daemon=True)
                self._syncer.start()

    def __enter__(self) -> Writer:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            with self._told():
                self._file = os.open(self._temporary, flags, 0o644)
                self._reserve()
                self._write_all(self._header, 0)
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
            if kind is None:
                self._finish()
        finally:
            self._discard()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the system refuses while the file is made, as a refusal that names the target."""
        try:
            yield
        except OSError as fault:
            raise unwritable(self.target, fault) from fault

    def _check_target(self) -> None:
        folder = self.target.parent
        if not folder.is_dir():
            raise Refused(
                "no-such-folder",
                found=f"{folder} does not exist",
                expected="an existing folder to write into",
                fix="create the folder or choose another --out",
            )
        if self.target.is_dir():
            raise Refused(
                "target-is-folder",
                found=f"{self.target} is a folder",
                expected="the name of a .safetensors file",
                fix=f"use --out {self.target / 'model.safetensors'}",
            )
        if self.target.exists() and not self.target.is_file():
            raise Refused(
                "target-not-a-file",
                found=f"{self.target} is a device or a pipe",
                expected="the name of a .safetensors file",
                fix="choose another --out; to see what would be written, use `fusequant plan`",
            )
        free = shutil.disk_usage(folder).free
        if free < self.size_bytes + SPARE_BYTES:
            raise Refused(
                "disk-full",
                found=f"{free / 1e9:.2f} GB free in {folder}",
                expected=f"{(self.size_bytes + SPARE_BYTES) / 1e9:.2f} GB for the new file",
                fix="free some space or choose --out on another disk",
            )

    def _reserve(self) -> None:
        """Claim the space now, so that a full disk is met before any work is done."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._file, 0, self.size_bytes)
                return
            except OSError as fault:
                if fault.errno in _NO_ROOM:
                    raise
                # some file systems cannot: then the file is only sized
        os.ftruncate(self._file, self.size_bytes)

    def _write_all(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data).cast("B")
        while view:
            if hasattr(os, "pwrite"):
                written = os.pwrite(self._file, view, offset)
            else:  # Windows: one shared position
                with self._lock:
                    os.lseek(self._file, offset, os.SEEK_SET)
                    written = os.write(self._file, view)
            view, offset = view[written:], offset + written

    def _sync_early(self) -> None:
        """Start writing to the disk while the next layers are still being computed."""
        try:
            getattr(os, "fdatasync", os.fsync)(self._file)
        except OSError as error:
            self._error = error
        with self._lock:
            self._syncer = None

    def _join(self) -> None:
        syncer = self._syncer
        if syncer is not None:
            syncer.join()

    def _finish(self) -> None:
        with self._told():
            self._join()
            if self._error is not None:
                raise self._error
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1
        self._before_rename()
        with self._told():
            os.replace(self._temporary, self.target)
        self._sync_name()

    def _sync_name(self) -> None:
        """Make the new name itself durable, where the system has a way; the file is whole."""
        if not hasattr(os, "O_DIRECTORY"):
            return
        with contextlib.suppress(OSError):  # not every file system syncs a folder
            folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _discard(self) -> None:
        try:
            if self._file >= 0:
                self._join()
                os.close(self._file)
                self._file = -1
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._temporary.unlink()
