"""Byte ranges of one open file in, tensors over mapped pages out.

The file is mapped copy-on-write and in pieces. Copy-on-write, so that torch gets memory that it may treat as its
own and no write ever reaches the file. In pieces, because Windows charges the whole of such a map against
the page file and Linux refuses a single one larger than RAM and swap together: one map of a 60 GB file
would fail on the very machines that need to read it layer by layer.
"""

from __future__ import annotations

import math
import mmap
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
    """Where a tensor's bytes lie in the file: [start, stop). `strides` counts elements; None is row-major."""

    start: int
    stop: int
    strides: tuple[int, ...] | None = None


class FileMap:
    """Maps of one open file, made when first needed and gone with the last tensor that looks at them."""

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
        """Close the file and let go of every map; one that a tensor still looks at goes with the tensor."""
        with self._lock:
            self._recent.clear()
            self._live.clear()
            self._handle.close()

    def _map(self, base: int, length: int) -> mmap.mmap:
        try:
            return mmap.mmap(
                self._handle.fileno(), length, access=mmap.ACCESS_COPY, offset=base
            )
        except ValueError as fault:
            if self._handle.closed:
                raise
            raise Refused(
                "file-changed",
                found=f"{self._name} shorter than when it was opened ({fault})",
                expected="a file that stays as it is while it is read",
                fix="wait until nothing writes to the file, then open it again",
            ) from fault
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
        self._file_map: FileMap | None = None

    def read_bytes(self, name: str) -> bytes:
        """The raw bytes of one small tensor, row-major."""
        spec, span = self._find(name)
        if not spec.elements:
            return b""
        if span.strides is not None:
            tensor = self.tensor(name).contiguous().flatten()
            return bytes(tensor.view(_torch().uint8).tolist())
        pages, offset = self._map().at(span)
        return pages[offset : offset + span.stop - span.start]

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor over the mapped file; a copy only where it does not lie on a multiple of its element size."""
        spec, span = self._find(name)
        shape = torch_shape(spec)
        dtype = torch_dtype(spec.dtype)
        torch = _torch()
        if not spec.elements:
            return torch.empty(shape, dtype=dtype)
        pages, offset = self._map().at(span)
        size = span.stop - span.start
        count = size * 8 // DTYPES[spec.dtype][0] if spec.dtype != "F4" else size
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


def _torch() -> "torch":  # type: ignore[valid-type]
    import torch

    return torch


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
