"""The counters of a device's allocator in, the peak of a run out; none of them is reset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from .timing import SAMPLE_S, PrivatePeak

ALLOCATED, RESERVED = "allocated_bytes.all", "reserved_bytes.all"
Stats = Callable[[], Mapping[str, int]]  # `torch.cuda.memory_stats` of one device


class AllocatorPeak:
    """Context manager: what an allocator handed out at most, and what it took of the device.

    After it: `baseline_bytes` (handed out on entry), `peak_bytes`, `over_baseline_bytes`, and
    `taken_bytes`: with what it caches, which is what other programs cannot have. The allocator
    keeps its highest mark since the process began: where the run has raised it, that is the peak to
    the byte, else the largest of what was seen every 20 ms. The driver is not asked: a call from
    another thread could disturb a CUDA graph that is being captured.
    """

    def __init__(self, stats: Stats, interval_s: float = SAMPLE_S) -> None:
        self._stats = stats
        self._handed_out, self._taken = (
            PrivatePeak(interval_s=interval_s, meter=self._reader(f"{name}.current"))
            for name in (ALLOCATED, RESERVED)
        )
        self._mark_before = 0
        self.baseline_bytes: int | None = None
        self.peak_bytes: int | None = None
        self.taken_bytes: int | None = None

    def _reader(self, name: str) -> Callable[[], int | None]:
        return lambda: self._stats().get(name)

    @property
    def over_baseline_bytes(self) -> int | None:
        if self.baseline_bytes is None or self.peak_bytes is None:
            return None
        return self.peak_bytes - self.baseline_bytes

    def __enter__(self) -> AllocatorPeak:
        self._mark_before = self._mark()
        self._handed_out.__enter__()
        self._taken.__enter__()
        self.baseline_bytes = self._handed_out.baseline_bytes
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._taken.__exit__(kind, error, trace)
        self._handed_out.__exit__(kind, error, trace)
        mark = self._mark()
        raised = mark > self._mark_before
        self.peak_bytes = mark if raised else self._handed_out.peak_bytes
        self.taken_bytes = self._taken.peak_bytes

    def _mark(self) -> int:
        return self._stats().get(f"{ALLOCATED}.peak", 0)
