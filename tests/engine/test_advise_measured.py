"""A measured result decides the order: which rows count, which files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusequant.engine.advise.advisor import Advice, advise
from fusequant.engine.advise.job import Wishes, job_of
from fusequant.engine.advise.machine import machine_of
from fusequant.engine.advise.measured import measured_from
from fusequant.engine.errors import Refused
from fusequant.engine.measure.results import Result, write_result
from fusequant.engine.specs import spec

ADA = {"gpu": {"name": "NVIDIA GeForce RTX 4090", "capability": "sm_89"}}
ROOT = Path(__file__).resolve().parents[2]


def rows(**seconds: float) -> list[dict[str, object]]:
    """{scheme: seconds at 4096 rows}; half of it at 2048."""
    return [
        {"scheme": scheme, "backend": "kitchen", "shape": [m, 3072, 3072], "median_s": s * m / 4096}
        for scheme, s in seconds.items()
        for m in (2048, 4096)
    ]


def saved(folder: Path, found: list[dict[str, object]], benchmark: str = "ops") -> Path:
    return write_result(folder, Result(benchmark, "2026-11-25", found, ADA))


def ask(path: Path, gpu: str = "RTX 4090", goal: str = "speed") -> Advice:
    job = job_of([spec("flux1-dev")], Wishes(goal=goal))
    return advise(machine_of(gpu, 24), job, measured_from(path))


def test_the_fastest_measured_scheme_is_first(tmp_path: Path) -> None:
    path = saved(tmp_path, rows(none=1.0, fp8_row=0.5, int8_convrot=0.7, int8=0.65))
    measured = measured_from(path)
    assert measured.device == "sm_89"
    assert measured.ratios == pytest.approx(
        {"none": 1.0, "fp8_row": 0.5, "int8_convrot": 0.7, "int8": 0.65}
    )
    found = ask(path)
    assert [x.setup.scheme for x in found.options][:3] == ["fp8_row", "int8", "int8_convrot"]
    assert "fp8_row on RTX 4090: measured at 0.50 of the time of 16 bits." in found.best.reasons
    assert "measured, in the place of" in str(found.options[1].why_not_first)
    told = found.to_json()["setups"]
    assert isinstance(told, list) and told[0]["products"] == "measured"


def test_measured_products_that_gain_nothing_leave_the_original_first(tmp_path: Path) -> None:
    path = saved(tmp_path, rows(none=1.0, fp8_row=1.1, int8_convrot=1.3))
    found = ask(path)
    assert found.best.scheme == "none"
    # of what was not measured no gain is assumed beside what was
    unmeasured = next(option for option in found.options if option.setup.scheme == "int8")
    assert unmeasured.case.found.gain == 1 and unmeasured.case.ratio is None


def test_the_fastest_backend_of_a_scheme_counts_and_names_are_understood(tmp_path: Path) -> None:
    found = rows(none=1.0, int8=0.9)
    found += [{**row, "scheme": "int8-torchao", "median_s": 0.1} for row in found[2:]]
    found += [{"scheme": "fp8", "shape": [1, 1, 1], "median_s": 1e-9}]  # nothing to compare it with
    found += [{"op": "hadamard", "median_s": 3.0}]
    ratios = measured_from(saved(tmp_path, found)).ratios
    assert ratios["int8"] == pytest.approx(0.2 / 1.5) and "fp8" not in ratios


def test_times_of_another_device_are_not_used(tmp_path: Path) -> None:
    path = saved(tmp_path, rows(none=1.0, fp8_row=0.1))
    found = ask(path, "RTX 3090")
    assert found.best.scheme == "none"
    assert found.best.reasons[0] == (
        f"{path.name} was measured on sm_89, this is sm_86: its times are not used."
    )


def test_files_without_times_of_steps_are_refused(tmp_path: Path) -> None:
    for path in (
        saved(tmp_path, rows(int8=0.5)),
        saved(tmp_path, rows(none=1.0, int8=0.5), "files"),
        *sorted((ROOT / "benchmarks" / "results").glob("*-host-*.json")),
    ):
        with pytest.raises(Refused, match="no-times-of-steps"):
            measured_from(path)
    (tmp_path / "x.json").write_text("[]", encoding="utf-8")
    with pytest.raises(Refused, match="not-a-result"):
        measured_from(tmp_path / "x.json")


def test_quality_and_memory_do_not_ask_the_clock_first(tmp_path: Path) -> None:
    path = saved(tmp_path, rows(none=1.0, fp8_row=0.1))
    assert ask(path, goal="quality").best.scheme == "none"
    assert ask(path, goal="memory").best.scheme == "int4_g128"
