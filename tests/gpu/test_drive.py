"""The driver of the GPU run: dying, hanging and late workers cost one case each and are told."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from .cases import FULL, TINY, Case, Group, Model, groups, title
from .drive import Driver
from .process import follow
from .table import compared, counted, table

MODEL = Model("none", "flux1-dev", (1,), (1, 1))
# a worker that answers from a script: case -> ok, die or hang
WORKER = """
import json, os, sys, time
job = json.loads(open(sys.argv[1]).read())
out = open(job["lines"], "a")
def line(**facts):
    out.write(json.dumps(facts) + chr(10)); out.flush()
line(event="started")
for titles, until in job["groups"].values():
    for case in titles:
        line(event="asking", case=case, limit_s=0.5)
        if "die" in case:
            sys.stderr.write("it hurts"); sys.stderr.flush(); os._exit(9)
        if "hang" in case:
            time.sleep(60)
        line(case=case, status="ok", step_s=1.0)
"""


class Scripted(Driver):
    """A driver whose workers run a script in the place of ComfyUI."""

    script = WORKER

    def command(self, job: Path) -> list[str]:
        """The script."""
        path = self.folder / "worker.py"
        path.write_text(self.script, encoding="utf-8")
        return [sys.executable, str(path), str(job)]


def driven(folder: Path, *checks: str, budget_s: float = 60.0, script: str = WORKER) -> Driver:
    """A driver that has asked these cases."""
    run = Scripted(str(folder), folder, False, True, time.time() + budget_s)
    run.script = script
    run.everything([Group("g", MODEL, tuple(Case(check) for check in checks))])
    return run


def test_a_worker_that_dies_costs_the_case_it_was_at(tmp_path: Path) -> None:
    rows = driven(tmp_path, "first", "die", "last").rows
    assert [(row["case"], row["status"]) for row in rows] == [
        ("g: first", "ok"),
        ("g: die", "failed"),
        ("g: last", "ok"),
    ]
    assert "ended with 9: it hurts" in rows[1]["why"]


def test_a_case_without_an_answer_fails_at_its_limit(tmp_path: Path) -> None:
    rows = driven(tmp_path, "hang", "last").rows
    assert [row["status"] for row in rows] == ["failed", "ok"]
    assert "no answer within" in rows[0]["why"]


def test_what_no_worker_reaches_has_failed(tmp_path: Path) -> None:
    rows = driven(tmp_path, "first", "second", script="raise SystemExit('nothing here')").rows
    assert [row["status"] for row in rows] == ["failed"] * 3
    assert "nothing here" in rows[0]["why"]


def test_what_the_budget_cuts_off_is_skipped_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[Driver.__module__], "OVERTIME_S", 0.0)
    rows = driven(tmp_path, "hang", "last", budget_s=0.3).rows
    assert {row["status"] for row in rows} == {"skipped"}
    assert all("time" in row["why"] for row in rows)


def test_a_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    script = (
        "import sys, time; out = open(sys.argv[1], 'a')\n"
        'out.write(\'{"case": "a", \'); out.flush(); time.sleep(0.4)\n'
        'out.write(\'"status": "ok"}\\n\'); out.flush()\n'
    )
    command = [sys.executable, "-c", script, str(lines)]
    rows = list(follow(command, tmp_path, lines, "start", time.time() + 30, str(tmp_path)))
    assert rows == [{"case": "a", "status": "ok"}]


@pytest.mark.parametrize("table_of", (FULL, TINY), ids=("full", "tiny"))
def test_every_case_has_a_name_of_its_own(table_of: tuple[Group, ...]) -> None:
    names = [title(group, case) for group in table_of for case in group.cases]
    assert len(set(names)) == len(names)
    assert len({group.name for group in table_of}) == len(table_of)


def test_full_size_is_asked_for_every_cap_and_model() -> None:
    asked = {title(group, case) for group in FULL for case in group.cases}
    for model in ("flux", "qwen", "wan"):
        for cap in (6, 8, 10, 12, 16, 24):
            assert {f"{model}: auto {cap} GB", f"{model}: limit {cap} GB"} <= asked
    assert {"flux: lora 12 GB", "flux: clones 12 GB", "flux: evict 12 GB"} <= asked
    assert "blocks: compile" in asked


def test_a_word_selects_cases() -> None:
    found = groups(tiny=True, only="clones")
    assert [title(group, case) for group in found for case in group.cases] == ["blocks: clones"]


def test_a_limit_is_compared_with_the_hosts_own_way_on_the_same_card() -> None:
    rows = [
        {"case": "flux: auto 8 GB", "status": "ok", "step_s": 2.0},
        {"case": "flux: limit 8 GB", "status": "ok", "step_s": 2.5, "peak_bytes": 7_500_000_000},
        {"case": "flux: limit 6 GB", "status": "failed", "why": "no"},
    ]
    found = compared(rows)
    assert [row.get("over_auto") for row in found] == [None, 1.25, None]
    shown = table(found)
    assert "1.25" in shown and "7.5" in shown
    assert counted(found) == "2 ok, 0 skipped, 1 failed"
    assert json.dumps(found)
