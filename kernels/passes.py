"""A pass over tensors as plain torch in, the same pass as one compiled loop out, where that pays.

Written in torch ops a pass goes over memory once for each op; compiled it goes once. Compiling
takes seconds, and a C++ compiler: until the plain form has cost as much, and wherever compiling
fails, the plain form runs. Both give the same bits.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

log = logging.getLogger(__name__)

LEAST_ELEMENTS = 1 << 18  # of the first argument: smaller passes are over before it matters
PAYS_AFTER_S = 10.0  # compiling took 6 to 40 s; who waits less in all should not wait for it

_at_once: ContextVar[bool] = ContextVar("fusequant_compile_at_once", default=False)


@contextmanager
def at_once() -> Iterator[None]:
    """Inside the block a pass is compiled at its first call: what a benchmark measures."""
    token = _at_once.set(True)
    try:
        yield
    finally:
        _at_once.reset(token)


def no_compiler() -> str | None:
    """Why nothing can be compiled here, or None; the compiler is the one that torch would take."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    name = os.environ.get("CXX") or usual
    return None if shutil.which(name) else f"there is no C++ compiler ({name}) to fuse passes with"


class Pass:
    """`plain(*tensors)` as one loop; call it like the function itself, from any thread.

    `eager` gives the same bits and is what runs while it is not compiled, where `plain` itself is
    not the fastest for that. `refusal` is why it is not compiled in this process, None while it is
    or may still be.
    """

    def __init__(
        self, plain: Callable[..., Any], eager: Callable[..., Any] | None = None
    ) -> None:  # fmt: skip
        self.plain = plain
        self.eager = eager or plain
        self.refusal: str | None = None
        self._compiled: Callable[..., Any] | None = None
        self._seconds = 0.0
        self._compiling = threading.Lock()

    def __call__(self, first: torch.Tensor, *rest: Any) -> Any:
        """The result of `plain`."""
        if (
            self.refusal is not None
            or first.numel() < LEAST_ELEMENTS
            or first.shape[0] < 2  # torch compiles a size of 1 apart
        ):
            return self.eager(first, *rest)
        if torch.compiler.is_compiling():
            return self.plain(first, *rest)
        if self._compiled is not None:
            return self._fast(self._compiled, first, *rest)
        if _at_once.get() or self._seconds >= PAYS_AFTER_S:
            return self._first(first, *rest)
        began = time.perf_counter()
        result = self.eager(first, *rest)
        self._seconds += time.perf_counter() - began
        return result

    def _first(self, *args: Any) -> Any:
        """Compile in this thread; others go on with the plain form meanwhile."""
        if not self._compiling.acquire(blocking=False):
            return self.eager(*args)
        try:
            self.refusal = no_compiler()
            if self.refusal is not None:
                return self.eager(*args)
            # shapes stay symbols: the next layer is not compiled again
            compiled = torch.compile(self.plain, dynamic=True, fullgraph=True)
            result = self._fast(compiled, *args)
            if self.refusal is None:
                self._compiled = compiled
            return result
        finally:
            self._compiling.release()

    def _fast(self, compiled: Callable[..., Any], *args: Any) -> Any:
        """The compiled form, and the plain one for good where a dtype does not compile."""
        try:
            return compiled(*args)
        except (RuntimeError, OSError, ImportError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            self.refusal = f"{self.plain.__name__} does not compile: {lines[0][:200]}"
            log.info("%s; its plain form is used", self.refusal)
            return self.eager(*args)
