"""Functions in, their times out, measured in turns; a process in, its peak private memory out."""

from __future__ import annotations

import importlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

SAMPLE_S = 0.02


@dataclass(frozen=True)
class Timing:
    """Seconds of one function over all rounds; `spread` is (slowest - fastest) / median."""

    samples_s: tuple[float, ...]
    median_s: float = field(init=False)
    spread: float = field(init=False)

    def __post_init__(self) -> None:
        median = statistics.median(self.samples_s)
        width = max(self.samples_s) - min(self.samples_s)
        object.__setattr__(self, "median_s", median)
        object.__setattr__(self, "spread", width / median if median > 0 else 0.0)


def time_in_turns(
    functions: Mapping[str, Callable[[], object]],
    rounds: int = 5,
    warmup: int = 1,
    synchronize: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Run every function once per round, starting with another one each round, and time it.

    Turns keep a change of the machine (clock, other users) from falling on one function only.
    `synchronize` waits for work that a call only started, e.g. `torch.cuda.synchronize`.
    """
    names = list(functions)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + rounds):
        start = turn % len(names) if names else 0
        for name in names[start:] + names[:start]:
            synchronize()
            began = time.perf_counter()
            functions[name]()
            synchronize()
            if turn >= warmup:
                samples[name].append(time.perf_counter() - began)
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def private_bytes(pid: int | None = None) -> int | None:
    """Private memory of a process now in bytes (this one by default); None where nothing tells it.

    Linux: RssAnon + VmSwap. These count pages that belong to the process alone; a page of a mapped
    file, copy-on-write or not, is RssFile until it is written. (Private_Clean of smaps and `uss` of
    psutil do count a mapped page that was only read.) The kernel sums RssAnon lazily, which makes
    it off by some 256 KiB a thread. Elsewhere: `uss` of psutil, if psutil is installed.
    """
    return _meter(os.getpid() if pid is None else pid)()


class PrivatePeak:
    """Context manager that watches the private memory of a process every 20 ms in a thread.

    After it: `baseline_bytes` (on entry), `peak_bytes` (largest seen) and `over_baseline_bytes`
    (their difference), each None where private memory cannot be told.
    A peak shorter than the interval may be missed; shared memory (/dev/shm) is not private.
    `meter` watches something else in the place of private memory, a device's allocator perhaps.
    """

    def __init__(
        self,
        pid: int | None = None,
        interval_s: float = SAMPLE_S,
        meter: Callable[[], int | None] | None = None,
    ) -> None:
        self._meter = meter or _meter(os.getpid() if pid is None else pid)
        self._interval_s = interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="private-peak")
        self.baseline_bytes: int | None = None
        self.peak_bytes: int | None = None

    @property
    def over_baseline_bytes(self) -> int | None:
        if self.baseline_bytes is None or self.peak_bytes is None:
            return None
        return self.peak_bytes - self.baseline_bytes

    def __enter__(self) -> PrivatePeak:
        self.baseline_bytes = self.peak_bytes = self._meter()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(self._interval_s):
            self._sample()

    def _sample(self) -> None:
        now = self._meter()
        if now is not None:
            self.peak_bytes = max(now, self.peak_bytes or 0)


def _meter(pid: int) -> Callable[[], int | None]:
    if os.path.exists("/proc/self/status"):
        return lambda: _linux(pid)
    try:
        psutil = importlib.import_module("psutil")
    except ImportError:
        return lambda: None

    def other() -> int | None:
        try:
            return int(psutil.Process(pid).memory_full_info().uss)
        except psutil.Error:
            return None

    return other


def _linux(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:  # the process has ended
        return None
    kib = [int(line.split()[1]) for line in lines if line.startswith((b"RssAnon:", b"VmSwap:"))]
    return sum(kib) * 1024 if kib else None
