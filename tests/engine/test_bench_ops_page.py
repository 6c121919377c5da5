"""The page on speed: its table is made of a result file, with what was cut and who did not run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fusequant.engine.measure.results import Result, write_result

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "make_readme.py"


@pytest.fixture
def pages() -> ModuleType:
    found = importlib.util.spec_from_file_location("make_readme", PATH)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_page_is_as_it_is_made(pages: ModuleType) -> None:
    page = pages.SPEED.read_text(encoding="utf-8")
    assert pages.filled(page, pages.SPEED_SECTIONS) == page, "run benchmarks/make_readme.py"


def test_a_table_for_each_number_of_rows(
    pages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    assert pages.ops_table() == pages.NO_OPS
    shared = {"who": "torch", "over_fp32": 1.0, "median_s": 0.0123}
    rows = [
        {**shared, "scheme": scheme, "backend": backend, "n": n, "k": 3072, "tokens": tokens}
        for tokens, n in ((256, 3072), (256, 12288), (1024, 3072))
        for scheme, backend in (("none", "BF16"), ("int8", "torch_native"))
    ]
    settings = {"not_run": {"int8 on onednn": "no VNNI"}, "cut": ["12288 x 3072, 1024 rows"]}
    facts = {"cpu": "a processor", "cores": 2, "torch": "2.13", "gpu": None}
    write_result(tmp_path, Result("ops", "2026-01-02", rows, facts, settings=settings))
    told = pages.ops_table()
    assert "|  | 3072 x 3072 | 12288 x 3072 |" in told
    assert "| `int8`, torch_native | 1.00 (12 ms) | 1.00 (12 ms) |" in told
    assert "| bf16, torch | 1.00 (12 ms) |" in told
    assert "- int8 on onednn: no VNNI." in told and "- Cut: 12288 x 3072, 1024 rows." in told
