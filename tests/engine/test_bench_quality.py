"""`bench quality`: whose file is the best of as many bytes, and tools that are there or are not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from fusequant.engine.bench import foreign
from fusequant.engine.bench import quality as bench
from fusequant.engine.measure.config import FluxConfig

# stands in for another tool: copies its source, or fails as it is told
TOOL = """#!{python}
import shutil, sys
given = sys.argv[1:]
if "--convrot" in given:
    sys.exit("no convrot here")
shutil.copy(given[given.index("-i") + 1], given[given.index("-o") + 1])
"""


def row(what: str, size: int, error: float) -> bench.Row:
    return bench.Row("m", "plain", what, size, error)


ROOT = Path(__file__).resolve().parents[2]
OTHERS = [row("a", 100, 0.3), row("b", 110, 0.2), row("c", 200, 0.04), row("d", 210, 0.05)]


def test_the_budgets_are_the_bytes_of_the_best_files() -> None:
    found = bench.budgets(OTHERS)
    assert found == {"4 bits": 110, "6 bits": 155, "8 bits": 200, "12 bits": 290}


def test_ours_is_compared_with_the_best_other_file_that_is_no_larger() -> None:
    ours = bench.Row("m", "fusequant", "6 bits", 150, 0.1, budget=155)
    found = bench.compared(ours, [*OTHERS, bench.Row("m", "tool", "x", why_not="absent")])
    assert (found.best, found.best_error) == ("plain: b", 0.2)
    assert found.ratio == pytest.approx(0.5)


@pytest.mark.skipif(sys.platform == "win32", reason="the tool is a script with a #! line")
def test_a_tool_that_fails_or_is_absent_leaves_its_reason(tmp_path: Path) -> None:
    tool, source, target = tmp_path / "ctq", tmp_path / "source", tmp_path / "target"
    tool.write_text(TOOL.format(python=sys.executable))
    tool.chmod(0o755)
    source.write_bytes(b"numbers")
    plain, rotated = foreign.FOREIGN[:2]
    assert foreign.make(plain, tmp_path, source, target, [], []) is None
    assert target.read_bytes() == b"numbers"
    assert foreign.make(rotated, tmp_path, source, target, [], []) == "no convrot here"
    assert "not installed" in (foreign.make(plain, None, source, target, [], []) or "")
    assert foreign.versions(None) == {}


def test_every_file_of_a_model_is_measured_and_ours_is_within_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "MODELS", {"tiny": (FluxConfig(256, 1, 0), "peft")})
    monkeypatch.setattr(bench, "GRID", (4, 4))
    monkeypatch.setattr(bench, "readable", lambda loads_in: ("int8_convrot", "int4_g128", "w4a8"))
    monkeypatch.setattr(bench, "ROUNDED", ("int8_convrot",))
    told: list[str] = []
    rows = bench.bench_quality(tmp_path, None, told.append)
    ours = [row for row in rows if row.who == "fusequant"]
    assert len(ours) > 4
    assert all(0 < (row.bytes or 0) <= (row.budget or 0) for row in ours)
    assert all(0 < (row.ratio or 0) < 1.05 for row in ours if "nearest" not in row.what)
    plain = {row.what: row.output_error for row in rows if row.who == "plain"}
    nearest = next(row for row in rows if row.what == "int8_convrot, nearest")
    assert nearest.output_error == plain["int8_convrot"]
    assert {row.who for row in rows if row.why_not} == {"convert_to_quant", "comfy-quants"}
    assert len(told) == len(rows) + 1


def test_making_the_page_again_changes_nothing() -> None:
    path = ROOT / "benchmarks" / "make_readme.py"
    found = importlib.util.spec_from_file_location("make_readme", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    page = module.QUALITY.read_text(encoding="utf-8")
    assert module.filled(page, module.QUALITY_SECTIONS) == page, "run benchmarks/make_readme.py"
