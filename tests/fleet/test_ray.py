"""Twenty recipes on two Ray workers, one killed in the middle and then the other's machine: the
bytes are those of this machine's own processes. A cluster of our own reports to nobody and goes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import twenty

NODE = {"num_cpus": 1, "memory": 4 << 30, "object_store_memory": 80 << 20}


def batch(recipes: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fusequant", "batch", str(recipes), "--json", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, told = process.communicate(timeout=540)
    assert process.returncode == 0, told
    found: dict[str, Any] = json.loads(out)
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fleet")
    twenty.write(path)
    return path


@pytest.fixture(scope="module")
def local(folder: Path) -> dict[str, bytes]:
    """What the processes of this machine write."""
    found = answer(batch(twenty.recipes(folder, "local")))
    assert found["totals"]["done"] == twenty.COUNT
    return files(folder / "local")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two machines of one core each, as far as Ray knows."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    found = Cluster(
        initialize_head=True, head_node_args={**NODE, "include_dashboard": False}
    )  # fmt: skip
    try:
        found.second = found.add_node(**NODE)
        yield found
    finally:
        found.shutdown()


def processes() -> dict[int, str]:
    """{pid: command line} of everything that runs."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                text = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            found[int(entry.name)] = text
    return found


def parent(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(next(x.split()[1] for x in status.splitlines() if x.startswith("PPid:")))


def kill_worker_of(name: str, cluster: Any, recipes: Path, process: Any) -> None:
    """SIGKILL for the process that is writing a recipe's file, in the middle of it."""
    out = recipes.with_suffix("")
    nodes = cluster.list_all_nodes()
    raylets = {info.process.pid for node in nodes for info in node.all_processes["raylet"]}
    until = time.monotonic() + 400
    while time.monotonic() < until and process.poll() is None:
        unfinished = [path.stat().st_size for path in out.glob(".fusequant-batch-*/.*.partial")]
        if any(size > twenty.BIG_BYTES // 3 for size in unfinished):
            for pid, text in processes().items():
                if text.startswith(f"ray::convert {name}") and parent(pid) in raylets:
                    os.kill(pid, signal.SIGKILL)
                    return
        time.sleep(0.002)
    pytest.fail(f"nobody was seen at work on {name}: {process.communicate()}")


def test_twenty_on_two_workers_with_one_killed_are_byte_equal(
    folder: Path, local: dict[str, bytes], cluster: Any
) -> None:
    assert len(local) == twenty.FILES
    recipes = twenty.recipes(folder, "fleet")
    process = batch(recipes, "--on", "ray", "--address", cluster.address)
    kill_worker_of("big", cluster, recipes, process)
    out = recipes.with_suffix("")
    before = len(list(out.glob("*.safetensors")))
    while len(list(out.glob("*.safetensors"))) < before + 3 and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "all done before the machine was taken away"
    cluster.remove_node(cluster.second, allow_graceful=False)
    found = answer(process)
    assert found["totals"]["done"] == twenty.COUNT
    assert next(x for x in found["recipes"] if x["name"] == "big")["attempts"] >= 2
    assert files(out) == local  # names and bytes; nothing unfinished is left

    again = answer(batch(recipes))  # on this machine it is all done already
    assert again["totals"]["done_already"] == twenty.COUNT


def ours(process: subprocess.Popen[str]) -> dict[int, str]:
    """Everything that the batch started, while it runs."""
    everything = processes()
    found = {process.pid: ""}
    grown = True
    while grown:
        more = {pid for pid in everything if pid not in found and parent(pid) in found}
        found |= {pid: everything[pid] for pid in more}
        grown = bool(more)
    del found[process.pid]
    return found


def wait_for_worker(process: subprocess.Popen[str]) -> dict[int, str]:
    until = time.monotonic() + 400
    while time.monotonic() < until and process.poll() is None:
        found = ours(process)
        if any(text.startswith("ray::convert") for text in found.values()):
            return found
        time.sleep(0.1)
    pytest.fail(f"no worker was seen: {process.communicate()}")


def assert_gone(started: dict[int, str]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        left = {pid: text for pid, text in processes().items() if started.get(pid)}
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"still there: {left}")


def test_an_own_cluster_reports_nothing_and_an_interrupt_ends_it(folder: Path) -> None:
    recipes = twenty.recipes(folder, "own")
    process = batch(recipes, "--on", "ray")
    started = wait_for_worker(process)
    for pid, text in started.items():
        if "gcs_server" in text or "dashboard.py" in text or "raylet" in text.split(" ")[0]:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            assert b"RAY_USAGE_STATS_ENABLED=0" in environment, text
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on" in told
    assert_gone(started)
    out = recipes.with_suffix("")
    assert not list(out.glob(".*"))


def test_where_no_cluster_is_it_says_so(folder: Path) -> None:
    recipes = twenty.recipes(folder, "nowhere")
    process = batch(recipes, "--on", "ray", "--address", "127.0.0.1:1")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert json.loads(out)["error"]["kind"] == "no-cluster"
    assert not list((folder / "nowhere").glob("*"))
