"""A job in, the rows of its cases out: one process, watched, ended when it takes too long."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
START_S = 120.0
POLL_S = 0.1
LOG_LINES = 12
LATE = "time: it was not done when the budget ended"


class Lines:
    """Follows the file that a worker writes: finished rows, and what it is at."""

    def __init__(self, path: Path, start: str, start_s: float = START_S) -> None:
        self._path, self._read = path, 0
        self.asking: str | None = start
        self._since, self.limit_s = time.time(), start_s

    def news(self) -> list[Row]:
        """Rows that were written since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        rows = []
        for line in whole.splitlines():
            facts = json.loads(line)
            if "event" not in facts:
                rows.append(facts)
            self.asking = facts["case"] if facts.get("event") == "asking" else None
            self._since, self.limit_s = time.time(), facts.get("limit_s", START_S)
        return rows

    def overdue(self) -> bool:
        """Whether the worker is longer at it than its limit."""
        return time.time() > self._since + self.limit_s


def follow(
    command: Sequence[str], folder: Path, lines: Path, start: str, last: float, cwd: str
) -> Iterator[Row]:
    """Run a worker that writes to `lines` -> its rows as they come.

    When it dies or exceeds a limit, the case that it was at gets a failed row; when time `last`
    comes, a skipped one. `start` names what it does before its first line.
    """
    lines.touch()
    news, log, late, slow = Lines(lines, start), folder / "log.txt", False, False
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=written, stderr=written
        )
    try:
        while process.poll() is None and not late and not slow:
            yield from news.news()
            time.sleep(POLL_S)
            late, slow = time.time() > last, news.overdue()
    finally:
        process.kill()
        process.wait()
    yield from news.news()
    if process.returncode and news.asking is not None:
        row = {"case": news.asking, "status": "failed"}
        if slow:
            yield {**row, "why": f"no answer within {news.limit_s:.0f} s: {tail(log)}"}
        elif late:
            yield {**row, "status": "skipped", "why": LATE}
        else:
            yield {**row, "why": f"its process ended with {process.returncode}: {tail(log)}"}


def tail(log: Path) -> str:
    """The last lines of a log."""
    text = log.read_text(encoding="utf-8", errors="replace")
    return " | ".join(text.strip().splitlines()[-LOG_LINES:])[-1500:]
