"""Outputs and row readers in, a written file out: layers side by side, each in cache-sized rows.

A worker takes a whole layer, so there is nothing to wait for between chunks; memory does not grow
with the size of a tensor. Reading is by the system's own read-ahead, writing by its write-back.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..kernels import ops
from .errors import Refused
from .files.folder_writer import FolderWriter
from .files.writer import Writer
from .gather import Gathered
from .layer import Layer
from .memory import CHUNK_ELEMENTS
from .outputs import Output
from .respell import respelled
from .rows import (
    RowReader,
    all_schemes,
    plain_rows,
    restated_rows,
    row_count,
    row_elements,
    rows_of,
)
from .scheme import Scheme
from .source import Source
from .stored import row_step
from .tensors import TensorSpec, torch_dtype

# elements of a chunk where the arithmetic is not the CPU's: enough to keep the device busy
DEVICE_CHUNK_ELEMENTS = {"cuda": 1 << 25, "mps": 1 << 24, "xpu": 1 << 25}
MAX_WORKERS = 16


class Cancelled(Exception):  # noqa: N818 - the user's wish, not an error
    """The caller's progress function asked to stop."""


Progress = Callable[[int, int], None]  # (bytes of source done, bytes of source in all)


def memory_view(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor of any dtype, without numpy; keep the tensor alive."""
    size = tensor.numel() * tensor.element_size()
    if not size:
        return memoryview(b"")
    return memoryview((ctypes.c_char * size).from_address(tensor.data_ptr())).cast("B")


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Each worker is one thread: torch's own pool would only fight with them. Restored after."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def worker_count(device: str) -> int:
    """How many layers are worked on at once: one per core, few when a GPU does the arithmetic."""
    return min(MAX_WORKERS, os.cpu_count() or 1) if device == "cpu" else 2


def chunk_rows(layer: Layer, device: str, step: int = 1) -> int:
    """Rows of a chunk: a multiple of `step`, at least one step."""
    budget = DEVICE_CHUNK_ELEMENTS.get(device.split(":")[0], CHUNK_ELEMENTS)
    rows = budget // max(1, row_elements(layer))
    return max(step, rows - rows % step)


@dataclass(frozen=True)
class Job:
    """One layer of the new file, who reads its rows and what a chunk of it is computed on.

    `fuse` adds the LoRAs to a reader and holds their tensors from then on; None: no LoRA is meant.
    """

    output: Output
    source: Source
    fuse: Callable[[RowReader], RowReader] | None
    device: str

    @property
    def layer(self) -> Layer:
        return self.output.choice.layer

    @property
    def source_bytes(self) -> int:
        names = {part.tensors["weight"] for part in self.layer.parts}
        return sum(self.source.tensors[name].size_bytes for name in names)

    def rows(self) -> RowReader:
        """A reader of the layer's rows, LoRAs added; made when a worker comes to the layer."""
        base = rows_of(self.layer, self.source)
        return self.fuse(base) if self.fuse else base

    @property
    def is_respelled(self) -> bool:
        """One whole stored weight of the very scheme that is written."""
        return self.layer.is_whole and self.layer.scheme == self.output.choice.scheme

    @property
    def is_plain(self) -> bool:
        """One run of plain stored numbers and nothing added: its rows need no copy."""
        parts = self.layer.parts
        return self.fuse is None and len(parts) == 1 and parts[0].scheme == "none"

    def chunk(self, rows: RowReader, start: int, stop: int) -> torch.Tensor:
        """Rows in the stored dtype, straight from the map, where nothing has to be computed."""
        if not self.is_plain:
            return rows(start, stop)
        part = self.layer.parts[0]
        low = part.rows[0] if part.rows else 0
        return plain_rows(self.source, part, start + low, stop + low)

    def spans(self, step: int = 1) -> Iterator[tuple[int, int]]:
        """(start, stop) of each chunk: whole steps of the scheme and of how the layer is stored.

        The last one takes what is less than a step with it.
        """
        step = math.lcm(step, row_step(self.layer))
        rows, size = row_count(self.layer), chunk_rows(self.layer, self.device, step)
        start = 0
        while start < rows:
            stop = rows if rows - start < size + step else start + size
            yield start, stop
            start = stop


class Stream:
    """Runs jobs into a writer; stops all of them at the first error or at a cancel."""

    def __init__(self, writer: Writer | FolderWriter, progress: Progress, total_bytes: int) -> None:
        self._writer, self._progress, self._total = writer, progress, total_bytes
        self._done = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def run(self, jobs: Sequence[Job], workers: int) -> None:
        """Largest first, so that no worker is left alone with a big layer at the end."""
        queue = sorted(jobs, key=lambda job: -job.source_bytes)
        for job in queue[:workers]:
            self._prefetch(job)
        following = dict(zip(map(id, queue), queue[workers:], strict=False))
        with ThreadPoolExecutor(workers, thread_name_prefix="fusequant") as pool:
            futures: list[Future[None]] = []
            try:
                for job in queue:
                    futures.append(pool.submit(self._guarded, job, following.get(id(job))))
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:  # Ctrl-C while waiting: let the workers go before passing it on
                self._stop.set()
                raise
            finally:
                for future in futures:
                    future.cancel()
        found = [future.exception() for future in futures if not future.cancelled()]
        errors = [error for error in found if error is not None]
        if errors:  # workers that were stopped because of the cause say Cancelled
            raise min(errors, key=lambda error: isinstance(error, Cancelled))

    def _guarded(self, job: Job, after: Job | None) -> None:
        if self._stop.is_set():
            return
        try:
            if after is not None:
                self._prefetch(after)
            with torch.inference_mode():
                self._write_layer(job)
        except BaseException:
            self._stop.set()
            raise

    @staticmethod
    def _prefetch(job: Job) -> None:
        for part in job.layer.parts:
            job.source.prefetch(part.tensors["weight"])

    def _advance(self, size_bytes: int) -> None:
        if self._stop.is_set():
            raise Cancelled
        with self._lock:
            self._done += size_bytes
            self._progress(self._done, self._total)

    def _put(self, spec: TensorSpec, tensor: torch.Tensor, at: int = 0) -> None:
        wanted = torch_dtype(spec.dtype)
        ready = tensor.to("cpu", wanted).contiguous()
        self._writer.write(spec.name, memory_view(ready), at)

    def _write_layer(self, job: Job) -> None:
        for role, data in job.output.known.items():
            self._writer.write(job.output.tensors[role].name, memoryview(data))
        if job.output.as_stored and not job.is_respelled:
            self._reorder(job)
        elif job.output.as_stored:
            self._restate(job)
        elif job.output.choice.scheme == "none":
            self._store_plain(job)
        else:
            self._quantize(job)

    def _store_plain(self, job: Job) -> None:
        """Copy, cast or fuse a layer that stays floating point (or is no floating point at all)."""
        layer, spec, rows = job.layer, job.output.tensors["weight"], job.rows()
        count = max(1, row_count(layer))
        for start, stop in job.spans():
            chunk = job.chunk(rows, start, stop)
            self._refuse_overflow(layer, chunk, spec)
            self._put(spec, chunk, start * (spec.size_bytes // count))
            self._advance(job.source_bytes * (stop - start) // count)

    @staticmethod
    def _refuse_overflow(layer: Layer, chunk: torch.Tensor, spec: TensorSpec) -> None:
        """A number that does not fit a narrower dtype would turn to infinity or NaN unsaid."""
        wanted = torch_dtype(spec.dtype)
        if not (chunk.is_floating_point() and wanted.is_floating_point and chunk.numel()):
            return
        top = torch.finfo(wanted).max
        if torch.finfo(chunk.dtype).max <= top:
            return
        largest = float(ops.amax(chunk))
        if largest > top:
            raise _overflow(layer, largest, wanted)

    def _restate(self, job: Job) -> None:
        """Write the codes of the source unchanged, scales as core reads them."""
        part = job.layer.parts[0]
        for role, spec in job.output.tensors.items():
            if role in job.output.known:
                continue
            self._put(spec, respelled(job.source, part, role, spec))
        self._advance(job.source_bytes)

    def _reorder(self, job: Job) -> None:
        """Write the codes of another tool, or of several stored weights, as one scheme has them."""
        layer, scheme = job.layer, all_schemes()[job.output.choice.scheme]
        weight = job.output.tensors["weight"]
        row_bytes = weight.size_bytes // weight.shape[0]
        read = restated_rows(layer, job.source, scheme.name)
        gathered = Gathered(scheme, job.output.tensors)
        for start, stop in job.spans(scheme.row_step):
            pieces = read(start, stop)
            self._put(weight, pieces.pop("weight"), start * row_bytes)
            gathered.add(pieces)
            self._advance(job.source_bytes * (stop - start) // layer.shape[0])
        for role, piece in gathered.tensors.items():
            self._put(job.output.tensors[role], piece)

    def _surveyed(self, job: Job, rows: RowReader, scheme: Scheme) -> torch.Tensor | None:
        """What the scheme has to know of the whole weight, read once more before quantizing."""
        if scheme.survey is None:
            return None

        def read(start: int, stop: int) -> torch.Tensor:
            if self._stop.is_set():
                raise Cancelled
            return job.chunk(rows, start, stop).to(job.device)

        n, k = job.layer.shape
        return scheme.survey.run(read, n, k, list(job.spans(scheme.row_step)))

    def _quantize(self, job: Job) -> None:
        scheme = all_schemes()[job.output.choice.scheme]
        layer, rows = job.layer, job.rows()
        whole = self._surveyed(job, rows, scheme)
        weight = job.output.tensors["weight"]
        row_bytes = weight.size_bytes // weight.shape[0]
        gathered = Gathered(scheme, job.output.tensors)
        for start, stop in job.spans(scheme.row_step):
            chunk = job.chunk(rows, start, stop).to(job.device)
            pieces = scheme.quantize(chunk, whole, job.output.choice.dtype)
            if not scheme.finite(pieces):
                raise _not_finite(layer, chunk, pieces)
            self._put(weight, pieces.pop("weight"), start * row_bytes)
            gathered.add(pieces)
            self._advance(job.source_bytes * (stop - start) // layer.shape[0])
        for role, piece in gathered.tensors.items():
            self._put(job.output.tensors[role], piece)


def _not_finite(layer: Layer, chunk: torch.Tensor, pieces: Mapping[str, torch.Tensor]) -> Refused:
    """The refusal of numbers that are not finite, or whose scale is too large for its dtype."""
    largest = float(ops.amax(chunk))
    narrow = [t.dtype for t in pieces.values() if t.dtype in (torch.bfloat16, torch.float16)]
    if math.isfinite(largest) and narrow:
        return _overflow(layer, largest, narrow[0])
    return Refused(
        "non-finite-weights",
        found="NaN or infinity among the weights",
        expected="finite numbers",
        fix="the file (or a LoRA fused into it) is damaged: download it again",
        layer=layer.name,
    )


def _overflow(layer: Layer, largest: float, dtype: torch.dtype) -> Refused:
    """The refusal of a number that a narrower dtype cannot hold."""
    return Refused(
        "overflow",
        found=f"a value of {largest:.4g}",
        expected=f"no more than fits {str(dtype).removeprefix('torch.')}",
        fix="write with --dtype bf16 or fp32; if a LoRA was fused, check its strength",
        layer=layer.name,
    )
