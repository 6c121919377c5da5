"""`fusequant batch` as a user meets it: plan first, lines on stderr, one answer, going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusequant.cli.main import main
from fusequant.engine.batch import run as running
from fusequant.engine.batch.events import Died, Ended, Event, Moved, Runner, Settings
from fusequant.engine.batch.task import FAILED, Outcome, Task
from fusequant.engine.batch.work import work
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.synthetic import write_flux_like

CONFIG = FluxConfig(hidden=256, double_blocks=1, single_blocks=1)
RECIPES = """
[defaults]
scheme = "int8"
out = "out/{name}.safetensors"
[[recipe]]
name = "plain"
source = "m0.safetensors"
[[recipe]]
name = "fused"
source = "m0.safetensors"
loras = ["lora.safetensors:0.5"]
[[recipe]]
name = "pair"
out = "out/{name}-{part}.safetensors"
high = { source = "m0.safetensors", loras = ["lora.safetensors"] }
low = { source = "m1.safetensors", scheme = "fp8" }
"""
OUTS = ["fused", "pair-high", "pair-low", "plain"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for number in range(2):
        write_flux_like(folder / f"m{number}.safetensors", CONFIG, seed=number)
    write_lora(folder / "lora.safetensors", CONFIG, "kohya", 8, seed=2)
    return folder


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    for path in models.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "r.toml").write_text(RECIPES)
    return tmp_path


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Recipes are done in this process; the names of those that were, in order."""
    names: list[str] = []

    def run(tasks: Sequence[Task], settings: Settings) -> Generator[Event, None, None]:
        for task in tasks:
            names.append(task.name)
            yield Moved(task, 1, 2)
            yield Ended(task, work(task))

    monkeypatch.setitem(running.RUNNERS, "local", Runner(run))
    return names


def ask(
    capsys: pytest.CaptureFixture[str], folder: Path, *words: object
) -> tuple[int, dict[str, Any], str]:
    """(exit code, the one JSON object on stdout, stderr)."""
    code = main(["batch", str(folder / "r.toml"), "--json", *map(str, words)])
    told = capsys.readouterr()
    return code, json.loads(told.out), told.err


def states(answer: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["state"] for row in answer["recipes"]}


def made(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "out").iterdir())


def test_a_dry_run_plans_and_touches_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    code, answer, _ = ask(capsys, folder, "--dry-run", "--memory", "4")
    assert code == 0
    assert sorted(folder.iterdir()) == before
    assert set(states(answer).values()) == {"planned"}
    assert answer["totals"]["planned"] == answer["totals"]["recipes"] == 3
    assert answer["totals"]["bytes_to_write"] == sum(row["bytes"] for row in answer["recipes"])
    assert answer["disk"][0]["needs_bytes"] > answer["totals"]["bytes_to_write"]
    assert answer["memory_bytes"] == 4 << 30
    for row in answer["recipes"]:
        assert row["memory_bytes"] > 0
        assert row["estimated_seconds"] >= 0
    pair = answer["recipes"][2]
    assert [(x["part"], x["scheme"]) for x in pair["files"]] == [("high", "int8"), ("low", "fp8")]
    assert main(["batch", str(folder / "r.toml"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "high: m0.safetensors + 1 LoRA -> pair-high.safetensors; low:" in text
    assert "3: 3 planned" in text


def test_it_goes_on_where_it_was_ended(
    folder: Path, here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer, told = ask(capsys, folder)
    assert code == 0
    assert set(states(answer).values()) == {"done"}
    assert made(folder) == OUTS
    assert told.index("writes") < told.index("[1/3")  # the plan comes first
    assert "[3/3] pair done: " in told
    assert answer["totals"]["bytes"] == sum(p.stat().st_size for p in (folder / "out").iterdir())
    alone = folder / "alone.safetensors"
    words = ["--lora", f"{folder / 'lora.safetensors'}:0.5", "--scheme", "int8"]
    main(["convert", str(folder / "m0.safetensors"), *words, "--out", str(alone)])
    capsys.readouterr()
    assert alone.read_bytes() == (folder / "out/fused.safetensors").read_bytes()

    here.clear()
    code, answer, _ = ask(capsys, folder)
    assert (code, set(states(answer).values()), here) == (0, {"done already"}, [])

    (folder / "out/pair-low.safetensors").unlink()
    os.truncate(folder / "out/plain.safetensors", 1000)
    code, answer, _ = ask(capsys, folder)
    assert (code, here) == (0, ["plain", "pair"])
    assert states(answer)["fused"] == "done already"

    (folder / "r.toml").write_text(RECIPES.replace(":0.5", ":0.6"))
    here.clear()
    assert ask(capsys, folder)[0] == 0
    assert here == ["fused"]


def test_each_end_has_its_line_in_the_log(
    folder: Path, here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, answer, _ = ask(capsys, folder)
    lines = [json.loads(x) for x in Path(answer["log"]).read_text().splitlines()]
    assert [line["name"] for line in lines] == ["plain", "fused", "pair"]
    assert all(line["seconds"] > 0 and line["bytes"] > 0 for line in lines)
    assert 0.005 < lines[0]["errors"][0]["mean"] < 0.03
    main(["batch", str(folder / "r.toml")])
    assert "3: 3 done already" in capsys.readouterr().out
    (folder / "out/plain.safetensors").unlink()
    code = main(["batch", str(folder / "r.toml"), "--dry-run"])
    assert code == 0
    assert "by earlier recipes" in capsys.readouterr().out


def test_a_refused_recipe_stops_no_other_and_makes_the_exit_2(
    folder: Path, here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers that fp16 cannot hold are met only when they are read."""
    loud = "[[recipe]]\nname = 'loud'\nsource = 'm0.safetensors'\ndtype = 'fp16'\nscheme = 'none'\n"
    (folder / "r.toml").write_text(
        RECIPES.replace("[[recipe]]", loud + "loras = ['lora.safetensors:1e9']\n[[recipe]]", 1)
    )
    code, answer, told = ask(capsys, folder)
    assert code == 2
    assert states(answer) == {"loud": "refused", "plain": "done", "fused": "done", "pair": "done"}
    assert answer["recipes"][0]["error"]["kind"] == "overflow"
    assert "loud refused: overflow in " in told
    assert made(folder) == OUTS


def test_what_is_wrong_refuses_the_batch_unless_told_to_keep_going(
    folder: Path, here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = "[[recipe]]\nname = 'bad'\nsource = 'm0.safetensors'\nkeep = ['nothing.like.it']\n"
    gone = "[[recipe]]\nname = 'gone'\nsource = 'm9.safetensors'\n"
    (folder / "r.toml").write_text(RECIPES + bad)
    code, answer, _ = ask(capsys, folder)
    assert code == 2
    assert answer["error"]["kind"] == "batch-refused"
    assert answer["error"]["problems"][0]["kind"] == "keep-matches-nothing"
    assert not (folder / "out").exists()
    assert main(["batch", str(folder / "r.toml")]) == 2
    assert "bad: keep-matches-nothing: the pattern nothing.like.it" in capsys.readouterr().err
    (folder / "r.toml").write_text(RECIPES + bad + gone)
    code, answer, _ = ask(capsys, folder, "--keep-going")
    assert code == 2
    assert states(answer)["bad"] == states(answer)["gone"] == "refused"
    assert made(folder) == OUTS
    code = main(["batch", str(folder / "r.toml"), "--keep-going"])
    assert code == 2
    assert "gone  refused  file-missing" in capsys.readouterr().out


def test_too_little_memory_or_disk_is_told_before_anything_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer, _ = ask(capsys, folder, "--memory", "0.1")
    assert code == 2
    assert {x["kind"] for x in answer["error"]["problems"]} == {"over-memory"}
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr("fusequant.engine.batch.room.shutil.disk_usage", lambda folder: full)
    code, answer, _ = ask(capsys, folder)
    assert code == 2
    assert [x["kind"] for x in answer["error"]["problems"]] == ["disk-full"]
    assert not (folder / "out").exists()


def test_our_fault_makes_the_exit_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"kind": "worker-died", "found": "it", "expected": "an answer", "fix": "more memory"}

    def run(tasks: Sequence[Task], settings: Settings) -> Generator[Event, None, None]:
        yield Died(tasks[0], "SIGKILL")
        yield Ended(tasks[0], Outcome(FAILED, {**facts, "attempts": 3}))
        for task in tasks[1:]:
            yield Ended(task, Outcome("done", {"files": [], "seconds": 1.0, "host": "there"}))

    monkeypatch.setitem(running.RUNNERS, "local", Runner(run))
    code, answer, told = ask(capsys, folder)
    assert code == 1
    assert set(states(answer).values()) == {"failed"}
    assert answer["recipes"][0]["attempts"] == 3
    # a file that is said to be made and is not there is not done
    assert answer["recipes"][1]["error"]["kind"] == "output-not-here"
    assert "plain: its process ended by SIGKILL; tried again" in told


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("--on", "elsewhere"), "bad-usage"),
        (("--jobs", "0"), "bad-usage"),
        (("--memory", "-1"), "bad-usage"),
        (("--retries", "-1"), "bad-usage"),
        (("--address", "auto"), "bad-usage"),
        (("--log", "no/such/folder/log"), "not-writable"),
    ],
)
def test_bad_usage_is_refused(
    words: tuple[str, ...], kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer, _ = ask(capsys, folder, *words)
    assert (code, answer["error"]["kind"]) == (2, kind)


def test_ray_that_is_not_installed_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, answer, _ = ask(capsys, folder, "--on", "ray")
    assert (code, answer["error"]["kind"]) == (2, "ray-missing")
    assert answer["error"]["fix"].startswith('pip install "fusequant[fleet]"')


def test_recipes_that_are_not_there_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["batch", str(folder / "none.toml")]) == 2
    assert "recipes-unreadable" in capsys.readouterr().err


def end_in_the_middle(folder: Path, number: signal.Signals) -> tuple[int, str]:
    """(exit code, stderr) of a batch that gets a signal once the larger recipe is being written."""
    command = [sys.executable, "-m", "fusequant", "batch", str(folder / "r.toml"), "--jobs", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for _ in range(6000):
        unfinished = list(folder.glob("out/.fusequant-batch-*/.fusequant-*.partial"))
        if (folder / "out/m0.safetensors").exists() and unfinished:
            break
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    return process.returncode, told


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_ended_in_the_middle_it_leaves_nothing_half_and_goes_on(
    folder: Path, here: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Real processes, killed once and interrupted once while the second recipe is written."""
    write_flux_like(folder / "big.safetensors", 160 << 20)
    (folder / "r.toml").write_text(
        RECIPES.split("[[recipe]]")[0]
        + "[[recipe]]\nsource = 'm0.safetensors'\n"
        + "[[recipe]]\nsource = 'big.safetensors'\nscheme = 'int8_convrot'\n"
    )
    assert end_in_the_middle(folder, signal.SIGKILL)[0] == -signal.SIGKILL
    for _ in range(1000):  # its worker notices that nobody waits, and puts the file away
        if not list(folder.glob("out/.fusequant-batch-*/*")):
            break
        time.sleep(0.02)
    assert not list(folder.glob("out/.fusequant-batch-*/.fusequant-*"))
    assert not (folder / "out/big.safetensors").exists()

    code, told = end_in_the_middle(folder, signal.SIGINT)
    assert code == 130
    assert "1 of 2 recipes are done; the same command goes on" in told
    assert [path.name for path in (folder / "out").iterdir()] == ["m0.safetensors"]

    code, answer, _ = ask(capsys, folder)
    assert (code, here) == (0, ["big"])
    assert states(answer) == {"m0": "done already", "big": "done"}
    assert made(folder) == ["big", "m0"]
