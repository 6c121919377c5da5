"""Tasks in, one process of its own for each, side by side within a cap of memory; events out.

A process that dies is noticed when its pipe ends; nothing waits for anything else.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from ..errors import Refused
from .events import Died, Ended, Event, Moved, Runner, Settings
from .task import FAILED, Json, Outcome, Task

WORKER = (sys.executable, "-m", f"{__package__}.worker")
WAIT_S = 0.5  # how long a Ctrl-C may wait on a system whose queues cannot be interrupted
STOP_S = 5.0  # what a process has to put its unfinished file away
_TAIL_BYTES = 2000

Lines = queue.Queue["tuple[_Process, Json | None]"]


@dataclass(eq=False)
class _Process:
    """A task under way."""

    task: Task
    attempt: int
    popen: subprocess.Popen[bytes]
    errors: IO[bytes]
    reader: threading.Thread | None = None
    outcome: Outcome | None = None

    def listen(self, lines: Lines) -> None:
        """Put every line that it says, then None, into the queue; by a thread."""
        self.reader = threading.Thread(target=self._read, args=(lines,), daemon=True)
        self.reader.start()

    def _read(self, lines: Lines) -> None:
        if self.popen.stdout is not None:
            for text in self.popen.stdout:
                with contextlib.suppress(ValueError):  # cut off when it died
                    lines.put((self, json.loads(text)))
        lines.put((self, None))

    def stop(self) -> None:
        """Its stdin ends: it puts its unfinished file away and goes."""
        if self.popen.stdin is not None:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()

    def end(self, until: float) -> str:
        """Wait for it, and no longer; the last line that it said on stderr."""
        try:
            self.popen.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        with self.errors:
            self.errors.seek(max(0, self.errors.seek(0, 2) - _TAIL_BYTES))
            lines = self.errors.read().decode("utf-8", "replace").strip().splitlines()
        if self.reader is not None:
            self.reader.join(STOP_S)
            if self.popen.stdout is not None and not self.reader.is_alive():
                self.popen.stdout.close()
        return lines[-1] if lines else ""


def start(task: Task, attempt: int, lines: Lines, worker: Sequence[str]) -> _Process:
    """A process for a task, listened to."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
    try:
        popen = subprocess.Popen(
            list(worker), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
    except BaseException:
        errors.close()
        raise
    process = _Process(task, attempt, popen, errors)
    if popen.stdin is not None:
        with contextlib.suppress(OSError):  # it died at once: its pipe tells
            popen.stdin.write(json.dumps(task.to_json()).encode() + b"\n")
            popen.stdin.flush()
    process.listen(lines)
    return process


def fits(task: Task, running: Sequence[Task], settings: Settings) -> bool:
    """Whether a task may start beside those: by count, by memory and by its device."""
    if settings.jobs is not None and len(running) >= settings.jobs:
        return False
    if any(task.devices & other.devices for other in running):
        return False  # a device is nobody's to share
    used = sum(other.need_bytes for other in running)
    return not running or used + task.need_bytes <= settings.memory_bytes


def run_local(
    tasks: Sequence[Task], settings: Settings, worker: Sequence[str] = WORKER
) -> Generator[Event, None, None]:
    """See `events.Runner`. Tasks start in their order, later ones first where one must wait."""
    waiting = [(task, 1) for task in tasks]
    running: list[_Process] = []
    lines: Lines = queue.Queue()
    try:
        while waiting or running:
            for turn in list(waiting):
                if fits(turn[0], [process.task for process in running], settings):
                    running.append(start(*turn, lines, worker))
                    waiting.remove(turn)
            try:
                process, line = lines.get(timeout=WAIT_S)
            except queue.Empty:
                continue
            if line is not None:
                yield from _heard(process, line)
                continue
            running.remove(process)
            event = _ended(process, settings)
            if isinstance(event, Died):
                waiting.insert(0, (process.task, process.attempt + 1))
            yield event
    finally:
        for process in running:
            process.stop()
        until = time.monotonic() + STOP_S
        for process in running:
            process.end(until)


def _heard(process: _Process, line: Json) -> Iterator[Event]:
    if "moved" in line:
        done, total = line["moved"]
        yield Moved(process.task, done, total)
    elif "state" in line:
        process.outcome = Outcome(line["state"], line["facts"])


def _ended(process: _Process, settings: Settings) -> Event:
    """The pipe ended: the answer, or the death of the process and whether it is tried again."""
    process.stop()
    said = process.end(time.monotonic() + STOP_S)
    if process.outcome is not None:
        facts: dict[str, Any] = {**process.outcome.facts, "attempts": process.attempt}
        return Ended(process.task, Outcome(process.outcome.state, facts))
    how = ended_by(process.popen.returncode) + (f" ({said})" if said else "")
    if process.attempt <= settings.retries:
        return Died(process.task, how)
    return Ended(process.task, died(how, process.attempt))


def ended_by(code: int | None) -> str:
    """`SIGKILL`, or the exit code."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def died(how: str, attempts: int) -> Outcome:
    """The outcome of a task whose process died every time."""
    refusal = Refused(
        "worker-died",
        found=f"its process ended by {how}, {attempts} times",
        expected="an answer",
        fix="if the system was short of memory, run with fewer --jobs or less --memory",
    )
    facts = Outcome.of(refusal, FAILED).facts
    return Outcome(FAILED, {**facts, "attempts": attempts})


RUNNER = Runner(run_local)
