"""Processes side by side: the memory cap, devices, deaths, retries, being stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from fusequant.engine.batch.entry import Part
from fusequant.engine.batch.events import Died, Ended, Event, Moved, Settings
from fusequant.engine.batch.local import ended_by, run_local
from fusequant.engine.batch.task import Task, TaskPart

WORKER = (sys.executable, str(Path(__file__).with_name("batch_worker.py")))
GB = 10**9
SETTINGS = Settings(jobs=4, memory_bytes=8 * GB, retries=2)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in kills itself by a signal")


def task(folder: Path, name: str, need_bytes: int = GB, *devices: str) -> Task:
    part = Part("", folder / "s", (), {"scheme": "int8", "device": "cpu"}, folder / "o")
    return Task(name, (TaskPart(part, "", 1),), "staging-", 1, need_bytes, frozenset(devices))


def run(tasks: Sequence[Task], settings: Settings = SETTINGS) -> list[Event]:
    return list(run_local(tasks, settings, WORKER))


def ends(events: Sequence[Event]) -> dict[str, Ended]:
    return {event.task.name: event for event in events if isinstance(event, Ended)}


def most_at_once(folder: Path) -> int:
    """From what each process noted when it began and when it ended."""
    running = most = 0
    for line in (folder / "notes").read_text().splitlines():
        running += 1 if line.startswith("+") else -1
        most = max(most, running)
    return most


def test_tasks_run_side_by_side_as_far_as_the_jobs_go(tmp_path: Path) -> None:
    events = run([task(tmp_path, f"t{i} well 0.4") for i in range(6)], Settings(3, 8 * GB))
    assert {event.outcome.state for event in ends(events).values()} == {"done"}
    assert len(ends(events)) == 6
    assert most_at_once(tmp_path) == 3
    assert sum(isinstance(event, Moved) for event in events) == 6


def test_a_large_prediction_makes_tasks_run_one_by_one(tmp_path: Path) -> None:
    """The cap holds for the sum of what was predicted, whatever the processes really take."""
    events = run([task(tmp_path, f"t{i} well 0.2", 5 * GB) for i in range(4)])
    assert len(ends(events)) == 4
    assert most_at_once(tmp_path) == 1


def test_a_small_task_goes_on_beside_a_large_one(tmp_path: Path) -> None:
    tasks = [
        task(tmp_path, "large0 well 0.5", 5 * GB),
        task(tmp_path, "large1 well 0.1", 5 * GB),
        task(tmp_path, "small well 0.1", GB),
    ]
    run(tasks)
    began = [x for x in (tmp_path / "notes").read_text().split() if x.startswith("+")]
    assert began.index("+small") < began.index("+large1")
    assert most_at_once(tmp_path) == 2


def test_a_device_is_nobodys_to_share(tmp_path: Path) -> None:
    run([task(tmp_path, f"t{i} well 0.2", GB, "cuda:0") for i in range(3)])
    assert most_at_once(tmp_path) == 1


def test_a_killed_process_is_noticed_and_its_task_tried_again(tmp_path: Path) -> None:
    tasks = [task(tmp_path, "once once 0"), *(task(tmp_path, f"t{i} well 0") for i in range(4))]
    events = run(tasks)
    died = [event for event in events if isinstance(event, Died)]
    assert [(event.task.name, event.how) for event in died] == [("once once 0", "SIGKILL")]
    assert {event.outcome.state for event in ends(events).values()} == {"done"}
    assert ends(events)["once once 0"].outcome.facts["attempts"] == 2


@pytest.mark.parametrize("behavior", ["killed", "silent", "cut"])
def test_one_that_dies_every_time_fails_and_stops_nobody(behavior: str, tmp_path: Path) -> None:
    name = f"x {behavior} 0"
    found = ends(run([task(tmp_path, name), task(tmp_path, "t well 0.2")]))
    facts = found[name].outcome.facts
    assert (found[name].outcome.state, facts["kind"]) == ("failed", "worker-died")
    assert facts["attempts"] == 3
    assert ("SIGKILL" in facts["found"]) == (behavior != "silent")
    assert behavior != "silent" or "exit code 3 (gone without a word)" in facts["found"]
    assert found["t well 0.2"].outcome.state == "done"


def test_no_retries_means_one_attempt(tmp_path: Path) -> None:
    found = ends(run([task(tmp_path, "x killed 0")], Settings(1, GB, retries=0)))
    assert found["x killed 0"].outcome.facts["attempts"] == 1


def test_a_refusal_is_an_answer_and_not_tried_again(tmp_path: Path) -> None:
    found = ends(run([task(tmp_path, "x refused 0")]))["x refused 0"]
    assert (found.outcome.state, found.outcome.facts["kind"]) == ("refused", "overflow")
    assert (tmp_path / "notes").read_text().count("+x") == 1


def test_a_program_that_cannot_start_is_a_death(tmp_path: Path) -> None:
    worker = (sys.executable, str(tmp_path / "none.py"))
    (event,) = run_local([task(tmp_path, "t well 0")], Settings(1, GB, retries=0), worker)
    assert isinstance(event, Ended)
    assert "exit code 2" in event.outcome.facts["found"]


def test_closing_it_ends_every_process(tmp_path: Path) -> None:
    began = time.monotonic()
    with closing(run_local([task(tmp_path, f"t{i} well 60") for i in range(3)], SETTINGS,
                           (*WORKER, str(tmp_path)))) as events:  # fmt: skip
        next(events)
        with pytest.raises(KeyboardInterrupt):
            raise KeyboardInterrupt
    assert time.monotonic() - began < 30
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in listed


def test_a_signal_has_its_name() -> None:
    assert ended_by(-9) == "SIGKILL"
    assert ended_by(3) == "exit code 3"
    assert ended_by(None) == "exit code None"
