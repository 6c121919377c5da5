"""Installing for real: skipped unless asked for by name; `--record` keeps what was timed."""

from __future__ import annotations

import datetime
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from fusequant.engine.measure.hardware import hardware
from fusequant.engine.measure.results import Result, read_result, write_as

from ..live.comfy import HOW, find
from . import served
from .bed import ROOT, STEPS, VERSIONS, WENT, Bed, make_bed

HERE = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--record` writes what was timed into benchmarks/results."""
    parser.addoption("--record", action="store_true", help="write <date>-install.json")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test of this folder is an install one."""
    asked = "install" in config.getoption("-m")
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker("install")
            item.add_marker("slow")
            if not asked:
                item.add_marker(pytest.mark.skip(reason="installs a ComfyUI: make install-test"))
            elif find() is None:
                item.add_marker(pytest.mark.skip(reason=HOW))


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HEAD of this repository as a git repository and as the registry's zip, on this machine."""
    folder = tmp_path_factory.mktemp("served")
    served.bare_clone(ROOT, folder)
    with served.serve(folder) as where:
        yield where


@pytest.fixture(scope="session")
def web_root(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is handed out under the address."""
    return next(tmp_path_factory.getbasetemp().glob("served*"))


@pytest.fixture
def clean(tmp_path: Path) -> Callable[[str], Bed]:
    """The name of a way to install -> a clean ComfyUI for it."""

    def made(way: str) -> Bed:
        first = find()
        assert first is not None
        return make_bed(way, first, tmp_path / "bed")

    return made


def _commit() -> str:
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


def _record() -> Path:
    """The ways that were gone to their end into today's result; others of today stay in it."""
    date = datetime.date.today().isoformat()
    path = ROOT / "benchmarks" / "results" / f"{date}-install.json"
    before = read_result(path) if path.exists() else None
    kept = [row for row in before.rows if row["way"] not in WENT] if before else []
    rows = [asdict(step) for step in STEPS if step.way in WENT]
    facts = {**(before.hardware if before else {}), **hardware(), **VERSIONS}
    load = f"{os.getloadavg()[0]:.0f}" if hasattr(os, "getloadavg") else "unknown"
    said = {"network": "PyPI alone", "load_average": load}
    return write_as(path, Result("install", date, [*kept, *rows], facts, _commit(), said))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Every step with its seconds; with `--record`, in a result file too."""
    if not STEPS:
        return
    terminalreporter.section("what was run, in seconds")
    for step in STEPS:
        terminalreporter.line(f"{step.seconds:8.2f}  {step.way}: {step.step}  {step.said}")
    if config.getoption("--record", default=False) and WENT:
        terminalreporter.line(f"written: {_record().relative_to(ROOT)}")
