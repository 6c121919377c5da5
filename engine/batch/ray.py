"""Tasks in, done by the workers of a Ray cluster, events out. Files are reached by shared paths.

A cluster of our own has no dashboard, reports nothing to anyone and is gone when this ends; one
that was there before is only used. The workers get this package from here, so that all run the
same code.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import Refused
from .events import Ended, Event, Runner, Settings
from .local import died
from .ram import cores
from .task import FAILED, Json, Outcome, Task, task_of
from .work import torch_version

ROOMS = ("engine", "kernels")  # what a worker runs
OBJECTS_BYTES = 80 << 20  # Ray's smallest store: what we send is a page of JSON
CONNECT_S = 10.0
LOOK_EVERY_S = 5.0  # whether a machine is left that could do what waits
# read by Ray while it starts; what was there before is put back
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


def convert_task(facts: Json) -> Json:
    """The function that runs on a worker: a task's JSON in, its outcome's JSON out."""
    from .work import work

    return work(task_of(facts)).to_json()


def run_ray(tasks: Sequence[Task], settings: Settings) -> Generator[Event, None, None]:
    """See `events.Runner`. `settings.jobs` tasks at most are handed in at a time."""
    ray = _installed()
    # Ray tells of dead workers on stdout, whatever one asks of it; that is for answers
    with (
        contextlib.redirect_stdout(sys.stderr),
        _package() as package,
        _cluster(ray, settings, package),
    ):
        yield from _Cluster(ray, settings).run(tasks)


def check() -> None:
    """Refuse where Ray is not installed; it is not loaded yet."""
    if importlib.util.find_spec("ray") is None:
        raise _missing("no package ray")


def _installed() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as fault:
        raise _missing(str(fault)) from fault


def _missing(why: str) -> Refused:
    return Refused(
        "ray-missing",
        found=f"no Ray for this Python: {why}",
        expected="the package ray, for --on ray",
        fix='pip install "fusequant[fleet]", or use --on local',
    )


class _Cluster:
    """A connected cluster and the tasks that were handed in."""

    def __init__(self, ray: Any, settings: Settings) -> None:
        self._ray = ray
        self._settings = settings
        self._convert = ray.remote(convert_task)
        self._pending: dict[Any, Task] = {}

    def run(self, tasks: Sequence[Task]) -> Iterator[Event]:
        """Hand in, wait, tell."""
        waiting = list(tasks)
        try:
            while waiting or self._pending:
                while waiting and len(self._pending) < (self._settings.jobs or len(tasks)):
                    yield from self._hand_in(waiting.pop(0))
                yield from self._wait()
        finally:
            for reference in self._pending:
                self._ray.cancel(reference, force=True)

    def _hand_in(self, task: Task) -> Iterator[Event]:
        nodes = self._nodes()
        task = _fitted(task, nodes)
        if not _has_place(task, nodes):
            yield Ended(task, Outcome.of(_no_place(task, nodes)))
            return
        options = self._convert.options(
            name=f"convert {task.name}",
            max_retries=self._settings.retries,  # after a worker's death; a refusal is an answer
            **_resources(task),
        )
        self._pending[options.remote(_on_any_machine(task).to_json())] = task

    def _wait(self) -> Iterator[Event]:
        if not self._pending:
            return
        ready, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=LOOK_EVERY_S)
        for reference in ready:
            task = self._pending.pop(reference)
            yield Ended(task, self._outcome(reference))
        if not ready:
            yield from self._abandoned()

    def _outcome(self, reference: Any) -> Outcome:
        errors = self._ray.exceptions
        try:
            outcome = Outcome(**self._ray.get(reference))
        except errors.RayTaskError as fault:
            return Outcome(FAILED, _fault(fault))
        except errors.RayError as fault:
            how = f"{type(fault).__name__}: {str(fault).splitlines()[0]}"
            return died(how, self._settings.retries + 1)
        return _with_warnings(outcome)

    def _abandoned(self) -> Iterator[Event]:
        """Tasks that no machine that is left could ever do."""
        nodes = self._nodes()
        for reference, task in list(self._pending.items()):
            if not _has_place(task, nodes):
                del self._pending[reference]
                self._ray.cancel(reference, force=True)
                yield Ended(task, Outcome.of(_no_place(task, nodes)))

    def _nodes(self) -> list[Mapping[str, float]]:
        """What each machine that is alive has in all."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]


def _resources(task: Task) -> dict[str, Any]:
    """What Ray keeps for a task; any device besides the CPU is one GPU of the machine."""
    wanted: dict[str, Any] = {"num_cpus": task.layers_at_once, "memory": task.need_bytes}
    return wanted | ({"num_gpus": 1} if task.devices else {})


def _fitted(task: Task, nodes: Sequence[Mapping[str, float]]) -> Task:
    """No more layers at once than the largest machine has cores."""
    most = max((int(node.get("CPU", 0)) for node in nodes), default=1)
    return replace(task, layers_at_once=max(1, min(task.layers_at_once, most)))


def _has_place(task: Task, nodes: Sequence[Mapping[str, float]]) -> bool:
    return any(
        node.get("CPU", 0) >= task.layers_at_once
        and node.get("memory", 0) >= task.need_bytes
        and (not task.devices or node.get("GPU", 0) >= 1)
        for node in nodes
    )


def _no_place(task: Task, nodes: Sequence[Mapping[str, float]]) -> Refused:
    machines = [
        f"{node.get('CPU', 0):g} cores, {node.get('memory', 0) / 1e9:.1f} GB, "
        f"{node.get('GPU', 0):g} GPUs"
        for node in nodes
    ]
    gpu = ", a GPU" if task.devices else ""
    return Refused(
        "no-machine-holds-it",
        found="; ".join(machines) or "no machine that is alive",
        expected=f"one with {task.layers_at_once} cores, {task.need_bytes / 1e9:.2f} GB{gpu}",
        fix="add such a machine to the cluster, or run this recipe with --on local",
    )


def _on_any_machine(task: Task) -> Task:
    """`cuda:1` is `cuda`: Ray shows each task its own card only."""
    parts = tuple(
        replace(
            part,
            part=replace(
                part.part,
                options={
                    **part.part.options,
                    "device": str(part.part.options["device"]).split(":")[0],
                },
            ),
        )
        for part in task.parts
    )
    return replace(task, parts=parts)


def _with_warnings(outcome: Outcome) -> Outcome:
    """Another torch may round otherwise: the promise of equal bytes holds for one version."""
    theirs, ours = outcome.facts.get("torch"), torch_version()
    if theirs is None or theirs == ours:
        return outcome
    warning = (
        f"made by torch {theirs} on {outcome.facts.get('host')}, here is {ours}: "
        "codes may differ by one step from those made here"
    )
    return Outcome(outcome.state, {**outcome.facts, "warnings": [warning]})


def _fault(fault: BaseException) -> Json:
    lines = str(fault).strip().splitlines()
    return {
        "kind": "internal-fault",
        "found": lines[-1] if lines else type(fault).__name__,
        "expected": "an answer",
        "fix": "convert it alone with --debug and report the traceback",
        "traceback": "\n".join(lines[-30:]),
    }


@contextlib.contextmanager
def _package() -> Iterator[Path]:
    """A copy of this package as the workers get it: under its name, without what is beside it."""
    name = __name__.split(".")[0]
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(prefix="fusequant-") as folder:
        package = Path(folder) / name
        package.mkdir()
        shutil.copy(root / "__init__.py", package)
        for room in ROOMS:
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / room, package / room, ignore=ignore)
        yield package


@contextlib.contextmanager
def _cluster(ray: Any, settings: Settings, package: Path) -> Iterator[None]:
    """Connected; what was started here is shut down, whatever happens."""
    own = {
        "address": "local",
        "num_cpus": cores(),
        "_memory": settings.memory_bytes,
        "object_store_memory": OBJECTS_BYTES,
        "include_dashboard": False,
    }
    where = {"address": settings.address} if settings.address else own
    try:
        _check_answers(settings.address)
        with _as_before(_QUIET if settings.address is None else {}):
            ray.init(
                **where,
                log_to_driver=False,
                configure_logging=False,
                runtime_env={"py_modules": [str(package)]},
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as fault:
        ray.shutdown()
        raise _no_cluster(settings.address, fault) from fault
    except BaseException:
        ray.shutdown()
        raise
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Ray itself would try for minutes where nobody listens."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()


@contextlib.contextmanager
def _as_before(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables for what is started inside; they and the answer to a request to end, which Ray
    takes for itself, are put back.
    """
    before = {name: os.environ.get(name) for name in variables}
    asked = signal.getsignal(signal.SIGTERM)
    os.environ.update(variables)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, asked)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _no_cluster(address: str | None, fault: BaseException) -> Refused:
    return Refused(
        "no-cluster",
        found=f"no Ray cluster at {address}: {fault}" if address else f"Ray that fails: {fault}",
        expected="a cluster with this version of Python and of Ray",
        fix="start one with `ray start --head`, or leave --address out to have one made here",
    )


RUNNER = Runner(run_ray, check)
