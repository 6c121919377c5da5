"""Byte ranges of one open file in, tensors over mapped pages out.

The file is mapped copy-on-write and in pieces. Copy-on-write, so that torch gets memory that it
may treat as its own and no write ever reaches the file. In pieces, because Windows charges the
whole of such a map against the page file and Linux refuses a single one larger than RAM and swap
together: one map of a 60 GB file would fail on the very machines that read it layer by layer.
"""

from __future__ import annotations

import mmap
import os
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from weakref import WeakValueDictionary

from ..errors import Refused
from ..tensors import DTYPES, TensorSpec, torch_dtype

if TYPE_CHECKING:
    import torch

PIECE_BYTES = 512 << 20  # keeps the open maps of a 40 GB file under macOS's 256 file descriptors


@dataclass(frozen=True, slots=True)
class Span:
    """A tensor's bytes in the file, [start, stop); `strides` in elements, None for row-major."""

    start: int
    stop: int
    strides: tuple[int, ...] | None = None


class FileMap:
    """Maps of one open file, made when needed and gone with the last tensor that looks at them."""

    def __init__(self, handle: BinaryIO, name: str, spans: Iterable[Span]) -> None:
        self._handle, self._name = handle, name
        self._lock = threading.Lock()
        self._live: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
        self._recent: deque[mmap.mmap] = deque(maxlen=2)
        self._starts, self._stops = _pieces(spans)

    def at(self, span: Span) -> tuple[mmap.mmap, int]:
        """The map that holds `span` (not empty) and the offset of its first byte there."""
        piece = bisect_right(self._starts, span.start) - 1
        base = self._starts[piece] // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        with self._lock:
            pages = self._live.get(piece)
            if pages is None:
                pages = self._map(base, self._stops[piece] - base)
                self._live[piece] = pages
                self._recent.append(pages)
        return pages, span.start - base

    def prefetch(self, span: Span) -> None:
        """Ask for the pages of `span`, where the system takes such a wish."""
        advice = getattr(mmap, "MADV_WILLNEED", None)
        if advice is None or span.start == span.stop:
            return
        pages, offset = self.at(span)
        first = offset // mmap.PAGESIZE * mmap.PAGESIZE
        pages.madvise(advice, first, offset + span.stop - span.start - first)

    def close(self) -> None:
        """Close the file and let go of every map; one in use goes with its last tensor."""
        with self._lock:
            self._recent.clear()
            self._live.clear()
            self._handle.close()

    def _map(self, base: int, length: int) -> mmap.mmap:
        try:
            return mmap.mmap(self._handle.fileno(), length, access=mmap.ACCESS_COPY, offset=base)
        except ValueError as fault:
            if self._handle.closed:
                raise
            raise _changed(self._name, str(fault)) from fault
        except OSError as fault:
            raise Refused(
                "cannot-map",
                found=f"the system does not map {length} bytes of {self._name}: {fault}",
                expected="a file on a disk that can be mapped, and enough page file",
                fix="copy the file to a local disk, or give the system a larger page file",
            ) from fault


class FileSource:
    """A Source over the byte ranges of one file (see engine/source.py)."""

    def __init__(
        self,
        path: Path,
        kind: str,
        handle: BinaryIO,
        tensors: Mapping[str, TensorSpec],
        spans: Mapping[str, Span],
        metadata: Mapping[str, str],
    ) -> None:
        self.path, self.kind, self.tensors, self.metadata = path, kind, tensors, metadata
        self._spans = spans
        self._handle = handle
        self._lock, self._scattered = threading.Lock(), False
        self._file_map: FileMap | None = None

    def read_bytes(self, name: str, at: int = 0, size: int | None = None) -> bytes:
        """Bytes [at, at + size) of the tensor as it lies row-major; all from `at` by default."""
        spec, span = self._find(name)
        stop = spec.size_bytes if size is None else min(spec.size_bytes, at + size)
        if at >= stop:
            return b""
        if span.strides is None:
            return self._read(span.start + at, span.start + stop)
        pages, offset = self._map().at(span)
        step = DTYPES[spec.dtype][0] // 8
        first = at // step
        places = (
            offset + step * _place(number, spec.shape, span.strides)
            for number in range(first, -(-stop // step))
        )
        data = b"".join(pages[place : place + step] for place in places)
        return data[at - first * step : stop - first * step]

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor over the mapped file; copied only if it is not aligned to its element size."""
        spec, span = self._find(name)
        import torch

        shape = torch_shape(spec)
        dtype = torch_dtype(spec.dtype)
        if not spec.elements:
            return torch.empty(shape, dtype=dtype)
        pages, offset = self._map().at(span)
        size = span.stop - span.start
        count = size // dtype.itemsize
        if offset % dtype.itemsize:
            flat = torch.frombuffer(bytearray(pages[offset : offset + size]), dtype=dtype)
        else:
            flat = torch.frombuffer(pages, dtype=dtype, count=count, offset=offset)
        return flat.view(shape) if span.strides is None else flat.as_strided(shape, span.strides)

    def prefetch(self, name: str) -> None:
        """Ask the system to bring the tensor's pages in soon."""
        self._map().prefetch(self._find(name)[1])

    def close(self) -> None:
        """Close the file; maps go with the last tensor that looks at them."""
        if self._file_map is not None:
            self._file_map.close()
        self._handle.close()

    def _read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the file, and no more: a map would bring megabytes around them."""
        if not self._scattered and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._handle.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self._scattered = True
        with self._lock:
            self._handle.seek(start)
            found = self._handle.read(stop - start)
        if len(found) < stop - start:
            raise _changed(self.path.name, f"it ends at byte {start + len(found)}")
        return found

    def _map(self) -> FileMap:
        if self._file_map is None:
            self._file_map = FileMap(self._handle, self.path.name, self._spans.values())
        return self._file_map

    def _find(self, name: str) -> tuple[TensorSpec, Span]:
        if self._handle.closed:
            raise ValueError(f"{self.path.name} is closed")
        if name not in self.tensors:
            raise no_tensor(name, self.path)
        return self.tensors[name], self._spans[name]


def _changed(name: str, how: str) -> Refused:
    """The refusal for a file that somebody has cut short."""
    return Refused(
        "file-changed",
        found=f"{name} shorter than when it was opened ({how})",
        expected="a file that stays as it is while it is read",
        fix="wait until nothing writes to the file, then open it again",
    )


def no_tensor(name: str, path: Path) -> Refused:
    """The refusal for a name that a source does not have."""
    return Refused(
        "tensor-missing",
        found=f"no tensor {name!r} in {path.name}",
        expected="a name that the file lists",
        fix="check that this is the right file for the model",
    )


def torch_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The shape as torch has it: F4 counts single numbers on disk and pairs (one byte) in torch."""
    if spec.dtype != "F4":
        return spec.shape
    return (*spec.shape[:-1], spec.shape[-1] // 2)


def _place(number: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Where the row-major `number`-th element lies, in elements from the first."""
    place = 0
    for size, by in zip(reversed(shape), reversed(strides), strict=True):
        number, index = divmod(number, size)
        place += index * by
    return place


def _pieces(spans: Iterable[Span]) -> tuple[list[int], list[int]]:
    """Ranges that cover the spans, none splitting one: starts and stops, ascending by start."""
    starts: list[int] = []
    stops: list[int] = []
    for span in sorted(spans, key=lambda span: span.start):
        if span.start == span.stop:
            continue
        if starts and span.stop - starts[-1] <= max(PIECE_BYTES, stops[-1] - starts[-1]):
            stops[-1] = max(stops[-1], span.stop)
        else:
            starts.append(span.start)
            stops.append(span.stop)
    return starts, stops
