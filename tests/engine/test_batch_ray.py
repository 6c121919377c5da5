"""What is handed to a Ray cluster and what comes back, with a stand-in for Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fusequant.engine.batch import ray
from fusequant.engine.batch.entry import Part
from fusequant.engine.batch.events import Ended, Settings
from fusequant.engine.batch.task import Task, TaskPart
from fusequant.engine.errors import Refused

GB = 10**9
NODE = {"CPU": 4.0, "memory": 8.0 * GB}


class FakeRay:
    """Hands back what `answers` has for a task's name: a JSON outcome or an error to raise."""

    class exceptions:  # noqa: N801 - as Ray has it
        """Ray's errors."""

        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

        class NodeDiedError(RayError):
            pass

    def __init__(self, answers: dict[str, Any], nodes: Sequence[dict[str, float]] = (NODE,)):
        self.answers, self.alive = answers, list(nodes)
        self.handed: dict[str, dict[str, Any]] = {}
        self.cancelled: list[str] = []
        self.most = self.under_way = 0

    def remote(self, function: Any) -> Any:
        assert function is ray.convert_task
        return self

    def options(self, **options: Any) -> Any:
        def hand_in(facts: dict[str, Any]) -> str:
            name: str = facts["name"]
            self.handed[name] = {**options, "facts": facts}
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            return name

        return type("Options", (), {"remote": staticmethod(hand_in)})

    def wait(self, references: list[str], num_returns: int, timeout: float) -> Any:
        ready = [name for name in references if self.answers.get(name) is not None][:num_returns]
        return ready, [name for name in references if name not in ready]

    def get(self, name: str) -> Any:
        self.under_way -= 1
        if isinstance(self.answers[name], Exception):
            raise self.answers[name]
        return self.answers[name]

    def cancel(self, name: str, force: bool) -> None:
        assert force
        self.cancelled.append(name)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": x} for x in self.alive] + [
            {"Alive": False, "Resources": {"CPU": 1000.0, "memory": 1e15}}
        ]


def task(name: str, layers: int = 2, need_bytes: int = GB, device: str = "cpu") -> Task:
    part = Part("", Path("s"), (), {"scheme": "int8", "device": device}, Path("o"))
    devices = frozenset({device} - {"cpu"})
    return Task(name, (TaskPart(part, "", 1),), "staging-", layers, need_bytes, devices)


def done(**facts: Any) -> dict[str, Any]:
    return {"state": "done", "facts": {"host": "there", "torch": ray.torch_version(), **facts}}


def run(fake: FakeRay, *tasks: Task, jobs: int | None = None) -> dict[str, Ended]:
    events = ray._Cluster(fake, Settings(jobs, GB, retries=2)).run(tasks)
    return {event.task.name: event for event in events if isinstance(event, Ended)}


def test_a_task_asks_for_cores_memory_and_a_card_and_is_retried_by_ray() -> None:
    fake = FakeRay({"a": done(), "b": done()}, [{**NODE, "GPU": 2.0}])
    found = run(fake, task("a", 3, 5 * GB), task("b", 2, GB, "cuda:1"))
    assert [x.outcome.state for x in found.values()] == ["done", "done"]
    first, second = fake.handed["a"], fake.handed["b"]
    assert (first["num_cpus"], first["memory"], first["max_retries"]) == (3, 5 * GB, 2)
    assert first["name"] == "convert a"
    assert "num_gpus" not in first
    assert second["num_gpus"] == 1
    # Ray shows each task its own card only
    assert second["facts"]["parts"][0]["options"]["device"] == "cuda"


def test_no_task_asks_for_more_cores_than_a_machine_has() -> None:
    fake = FakeRay({"a": done()})
    run(fake, task("a", 16))
    assert fake.handed["a"]["num_cpus"] == fake.handed["a"]["facts"]["layers_at_once"] == 4


@pytest.mark.parametrize("wanted", [{"need_bytes": 9 * GB}, {"device": "cuda"}])
def test_a_task_that_no_machine_holds_is_refused_and_does_not_wait(wanted: dict[str, Any]) -> None:
    fake = FakeRay({"b": done()})
    found = run(fake, task("a", **wanted), task("b"))
    assert found["a"].outcome.facts["kind"] == "no-machine-holds-it"
    assert found["b"].outcome.state == "done"


def test_when_the_last_machine_for_a_task_is_gone_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay({"a": None})
    cluster = ray._Cluster(fake, Settings(None, GB))
    events = cluster.run([task("a")])
    fake.wait = lambda references, num_returns, timeout: (fake.alive.clear(), ([], references))[1]  # type: ignore[method-assign]
    (event,) = list(events)
    assert isinstance(event, Ended)
    assert event.outcome.facts["found"] == "no machine that is alive"
    assert fake.cancelled == ["a"]


def test_deaths_faults_and_refusals_are_told_apart() -> None:
    errors = FakeRay.exceptions
    refused = {"state": "refused", "facts": {"kind": "overflow"}}
    fake = FakeRay({
        "died": errors.NodeDiedError("the node died\nand more"),
        "ours": errors.RayTaskError("Traceback\nTypeError: no"),
        "refused": refused,
        "well": done(),
    })  # fmt: skip
    found = run(fake, *map(task, fake.answers))
    facts = {name: event.outcome.facts for name, event in found.items()}
    assert facts["died"]["kind"] == "worker-died"
    assert "NodeDiedError: the node died, 3 times" in facts["died"]["found"]
    assert (facts["ours"]["kind"], facts["ours"]["found"]) == ("internal-fault", "TypeError: no")
    assert found["refused"].outcome.state == "refused"
    assert found["well"].outcome.state == "done"


def test_another_torch_is_warned_of() -> None:
    found = run(FakeRay({"a": done(torch="1.0"), "b": done()}), task("a"), task("b"))
    assert "torch 1.0 on there" in found["a"].outcome.facts["warnings"][0]
    assert "warnings" not in found["b"].outcome.facts


def test_jobs_limit_what_is_handed_in_and_closing_cancels_the_rest() -> None:
    fake = FakeRay({name: done() for name in "abcd"})
    run(fake, *map(task, "abcd"), jobs=2)
    assert fake.most == 2
    fake = FakeRay({"a": done(), "b": None, "c": None})
    events = ray._Cluster(fake, Settings(None, GB)).run([task(name) for name in "abc"])
    next(events)
    events.close()
    assert fake.cancelled == ["b", "c"]


def test_the_workers_copy_of_the_package_runs_alone(tmp_path: Path) -> None:
    with ray._package() as package:
        assert package.name == "fusequant"
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); "
            "from fusequant.engine.batch.task import task_of; import fusequant; "
            "from fusequant.engine.specs import names; names()[0]; "
            "sys.stdout.write(fusequant.__file__)"
        )
        command = [sys.executable, "-c", code, str(package.parent)]
        told = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert Path(told.stdout).parent == package, told.stderr
    assert not package.exists()


def test_the_environment_and_the_answer_to_a_signal_are_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with ray._as_before(ray._QUIET):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    with pytest.raises(OSError):
        ray._check_answers("127.0.0.1:1")
    ray._check_answers("auto")
    ray._check_answers(None)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Refused, match=r"fusequant\[fleet\]"):
        list(ray.run_ray([], Settings(None, GB)))
