"""What a runner tells while tasks are done, and what it is told beforehand."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from .task import Outcome, Task


@dataclass(frozen=True)
class Settings:
    """How a batch is run. `jobs` recipes side by side, None for as many as the machines hold;
    `memory_bytes` for all of them together; `retries` after a process that died.

    `address`: of a Ray cluster that is there (`auto`, HOST:PORT); None: one of our own.
    """

    jobs: int | None
    memory_bytes: int
    retries: int = 2
    address: str | None = None


@dataclass(frozen=True)
class Moved:
    """A task has done this much."""

    task: Task
    done: int
    total: int


@dataclass(frozen=True)
class Died:
    """The process of a task died; it is tried again."""

    task: Task
    how: str


@dataclass(frozen=True)
class Ended:
    """A task ended, this way or that."""

    task: Task
    outcome: Outcome


Event = Moved | Died | Ended


@dataclass(frozen=True)
class Runner:
    """Who does tasks. `run` yields events until every task has ended; closing it stops what it
    started. `check` refuses what it cannot do without.
    """

    run: Callable[[Sequence[Task], Settings], Generator[Event, None, None]]
    check: Callable[[], None] = lambda: None
