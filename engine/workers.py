"""Tasks in, all of them done side by side, or the first error out once nobody works any more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch

MAX_WORKERS = 16


class Cancelled(Exception):  # noqa: N818 - the user's wish, not an error
    """The caller's progress function asked to stop."""


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


def side_by_side(tasks: Sequence[Callable[[], None]], workers: int, stop: threading.Event) -> None:
    """Run every task, `workers` at a time, in their order; nothing is left running.

    The first error sets `stop`, which tasks look at to end early, and is raised; so is a Ctrl-C.
    """

    def guarded(task: Callable[[], None]) -> None:
        if stop.is_set():
            return
        try:
            task()
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers, thread_name_prefix="fusequant") as pool:
        futures: list[Future[None]] = []
        try:
            for task in tasks:
                futures.append(pool.submit(guarded, task))
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:  # Ctrl-C while waiting: let the workers go before passing it on
            stop.set()
            raise
        finally:
            for future in futures:
                future.cancel()
    found = [future.exception() for future in futures if not future.cancelled()]
    errors = [error for error in found if error is not None]
    if errors:  # workers that were stopped because of the cause say Cancelled
        raise min(errors, key=lambda error: isinstance(error, Cancelled))
