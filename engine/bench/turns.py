"""Processes that wait for orders in, their answers out: each keeps its own state and memory.

One works while the others wait, so that a change of the machine meets all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

STOP_S = 20.0


class Waiting:
    """`with Waiting(module, words) as process:`; `ask` sends one JSON order, takes one answer."""

    def __init__(self, module: str, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, encoding="utf-8",
        )  # fmt: skip

    def ask(self, **order: Any) -> dict[str, Any]:
        """The answer to an order; the process's own words where it fell."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the process has no pipes")
        try:
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            stderr = self._process.stderr
            told = stderr.read() if stderr is not None else ""
            raise RuntimeError(f"a process of the benchmark ended: {told[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Waiting:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close its input, which ends it; kill it if that takes too long."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(orders: Mapping[str, Any]) -> int:
    """The other side: one JSON order a line in, `orders[order["do"]](**rest)` as JSON out."""
    for line in sys.stdin:
        order = json.loads(line)
        answer = orders[order.pop("do")](**order)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 0
