"""The story of a batch: plan all, share the machine, then every recipe to its end.

The plan stands before anything runs, and one list tells all that is wrong with it. What is done is
what stands at the outputs: running again goes on where the last run was ended.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import Refused
from ..files.writer import unwritable
from . import local, ray
from .entry import Entry, Trouble
from .events import Died, Ended, Event, Moved, Runner, Settings
from .gather import settle
from .journal import Journal, lines_of, usual_path
from .ours import is_done
from .pace import Pace
from .plan import Planned, plan
from .ram import cores, usual_cap
from .room import Room, rooms, too_small
from .share import Shares, shares
from .staging import clear
from .task import DONE, FAILED, Json, Outcome, Task, staging_of, task_from
from .told import Row, answer

RUNNERS: dict[str, Runner] = {"local": local.RUNNER, "ray": ray.RUNNER}
_APPEAR_S = 10.0  # until a file that another machine wrote is seen here


@dataclass(frozen=True)
class Asked:
    """What the user asked for beside the recipes; None: the usual."""

    on: str = "local"
    jobs: int | None = None
    memory_bytes: int | None = None
    retries: int = 2
    address: str | None = None
    keep_going: bool = False
    log: Path | None = None


class Watch(Protocol):
    """Who is told while a batch runs."""

    def moved(self, done_bytes: int, total_bytes: int) -> None:
        """So much is written; may raise to end the batch."""
        ...

    def ended(self, row: Row, left_s: float | None) -> None:
        """A recipe ended; about so long for the others."""
        ...

    def died(self, name: str, how: str) -> None:
        """The process of a recipe died; it is tried again."""
        ...


@dataclass(frozen=True)
class Batch:
    """Everything that is known before anything runs. `left_out`: recipes that cannot be done."""

    path: Path
    asked: Asked
    planned: tuple[Planned, ...]
    left_out: tuple[Trouble, ...]
    shares: Shares
    rooms: tuple[Room, ...]
    memory_bytes: int
    log: Path
    pace: Pace

    @property
    def elsewhere(self) -> bool:
        """Whether a cluster does it whose machines are not known here."""
        return self.asked.address is not None

    @property
    def todo(self) -> list[Planned]:
        """What will be run."""
        return [x for x in self.planned if x.name in self.shares.layers]

    def rows(self) -> list[Row]:
        """Every recipe as it stands now."""
        lost = {trouble.recipe for trouble in self.left_out}
        rows = [
            Row.of(x, self.pace.seconds(x), self.shares.layers.get(x.name))
            for x in self.planned
            if x.name not in lost
        ]
        return [*rows, *Row.left_out(self.left_out)]

    def to_json(self, rows: Sequence[Row] | None = None, seconds: float = 0.0) -> Json:
        """The answer of the command line; without rows that of --dry-run."""
        facts = {
            "on": self.asked.on,
            "at_once": self.shares.at_once,
            "memory_bytes": None if self.elsewhere else self.memory_bytes,
            "disk": [room.to_json() for room in self.rooms],
            "log": str(self.log),
        }
        estimate = self.pace.total_s(self.todo, self.shares.at_once)
        source = "earlier recipes" if self.pace.is_own else "a table, measured on two cores"
        if self.elsewhere:
            source += ", as if by one machine"
        told = self.rows() if rows is None else rows
        return answer(told, facts, estimate, source, seconds)


def plan_batch(
    path: Path,
    entries: Sequence[Entry],
    troubles: Sequence[Trouble],
    asked: Asked,
    moved: Callable[[int, int], None] = lambda done, total: None,
) -> Batch:
    """Plan every entry; `troubles` are those of recipes that were left out before."""
    RUNNERS[asked.on].check()
    planned, found = plan(entries, moved)
    todo = [x for x in planned if not x.done]
    elsewhere = asked.address is not None
    memory = asked.memory_bytes or usual_cap()
    shared, short = shares(
        todo, asked.jobs, None if elsewhere else cores(), sys.maxsize if elsewhere else memory
    )
    runnable = [x for x in todo if x.name in shared.layers]
    space = rooms(runnable, shared.at_once)
    left_out = [*troubles, *found, *short]
    settle(path, [*left_out, *too_small(space)], asked.keep_going)
    log = asked.log or usual_path(path)
    pace = Pace(lines_of(log))
    return Batch(
        path, asked, tuple(planned), tuple(left_out), shared, tuple(space), memory, log, pace
    )


def run_batch(batch: Batch, watch: Watch) -> Json:
    """Run what is to do; the answer has every recipe as it ended.

    At the end, by whatever cause, no folder of unfinished files is left.
    """
    began = time.monotonic()
    run = _Run(batch, watch)
    folders = list(dict.fromkeys(x.part.out.parent for p in batch.planned for x in p.parts))
    prefix = staging_of(batch.path)
    with Journal(batch.log) as journal:
        clear(prefix, folders)  # of a run that was killed
        for folder in folders:
            _make(folder)
        try:
            run.all(journal)
        except BaseException as fault:
            journal.write({"state": "ended early", "why": type(fault).__name__})
            raise
        finally:
            clear(prefix, folders)
    return batch.to_json(run.rows, time.monotonic() - began)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise unwritable(folder, fault) from fault


class _Run:
    """One run of the recipes that are to do."""

    def __init__(self, batch: Batch, watch: Watch) -> None:
        self._batch = batch
        self._watch = watch
        self.rows = batch.rows()
        self._planned = {x.name: x for x in batch.todo}
        self._written = dict.fromkeys(self._planned, 0)
        self._total = sum(x.bytes for x in batch.todo)

    def all(self, journal: Journal) -> None:
        """Every event until the last recipe has ended."""
        batch, layers = self._batch, self._batch.shares.layers
        tasks = [task_from(batch.path, x, layers[x.name]) for x in batch.todo]
        if not tasks:
            return
        settings = Settings(
            jobs=batch.asked.jobs if batch.elsewhere else batch.shares.at_once,
            memory_bytes=batch.memory_bytes,
            retries=batch.asked.retries,
            address=batch.asked.address,
        )
        batch.pace.begin(batch.todo, batch.shares.at_once)
        with closing(RUNNERS[batch.asked.on].run(tasks, settings)) as events:
            for event in events:
                self._hear(event, journal)

    def _hear(self, event: Event, journal: Journal) -> None:
        if isinstance(event, Moved):
            self._moved(event.task, event.done / max(1, event.total))
        elif isinstance(event, Died):
            self._watch.died(event.task.name, event.how)
            journal.write({"name": event.task.name, "state": "died", "why": event.how})
            self._moved(event.task, 0.0)
        elif isinstance(event, Ended):
            self._ended(event, journal)

    def _moved(self, task: Task, share: float) -> None:
        self._written[task.name] = int(self._planned[task.name].bytes * share)
        self._batch.pace.moved(task.name, share)
        self._watch.moved(sum(self._written.values()), self._total)

    def _ended(self, event: Ended, journal: Journal) -> None:
        planned, outcome = self._planned[event.task.name], event.outcome
        if outcome.state == DONE:
            outcome = self._seen(planned, outcome)
        number = next(i for i, row in enumerate(self.rows) if row.name == planned.name)
        row = self.rows[number].ended(outcome)
        self.rows[number] = row
        at_once = 0 if self._batch.elsewhere else self._batch.shares.at_once
        journal.write(row.to_log(planned, at_once))
        self._moved(event.task, 1.0)
        self._watch.ended(row, self._batch.pace.left_s())

    def _seen(self, planned: Planned, outcome: Outcome) -> Outcome:
        """A recipe is done when its files stand here, whole, whoever says that he made them."""
        until = time.monotonic() + (_APPEAR_S if self._batch.asked.on != "local" else 0)
        while True:
            absent = [
                x.part.out for x in planned.parts if not is_done(x.part.out, x.recipe, x.bytes)
            ]
            if not absent:
                return outcome
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        refusal = Refused(
            "output-not-here",
            found=f"no whole {absent[0]} here, though {outcome.facts.get('host')} wrote it",
            expected="the same path to the same file on every machine that takes part",
            fix="write to a disk that all of them share",
        )
        return Outcome.of(refusal, FAILED)
