"""A measured result decides the order: which rows count, which files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fusequant.engine.advise.advisor import Advice, advise
from fusequant.engine.advise.job import Wishes, job_of
from fusequant.engine.advise.machine import machine_of
from fusequant.engine.advise.measured import measured_from
from fusequant.engine.bench.ops import Bench, bench_ops
from fusequant.engine.errors import Refused
from fusequant.engine.measure.results import Result, write_result
from fusequant.engine.specs import spec

ADA = {"gpu": {"name": "NVIDIA GeForce RTX 4090", "capability": "sm_89"}}
ROOT = Path(__file__).resolve().parents[2]


def rows(backend: str = "kitchen", auto: bool = True, **seconds: float) -> list[dict[str, object]]:
    """{scheme: seconds of a layer} as `bench ops` writes them, for two shapes."""
    return [
        {"scheme": scheme, "backend": "torch" if scheme == "none" else backend, "auto": auto,
         "n": n, "k": 3072, "count": count, "tokens": 4096, "median_s": s * n / 3072}
        for scheme, s in seconds.items()
        for n, count in ((3072, 38), (12288, 19))
    ]  # fmt: skip


def saved(folder: Path, found: list[dict[str, object]], benchmark: str = "ops") -> Path:
    return write_result(folder, Result(benchmark, "2026-11-25", found, ADA))


def ask(path: Path, gpu: str = "RTX 4090", goal: str = "speed") -> Advice:
    job = job_of([spec("flux1-dev")], Wishes(goal=goal))
    return advise(machine_of(gpu, 24), job, measured_from(path))


def test_the_fastest_measured_scheme_is_first(tmp_path: Path) -> None:
    path = saved(tmp_path, rows(none=1.0, fp8_row=0.5, int8_convrot=0.7, int8=0.65))
    measured = measured_from(path)
    assert measured.device == "sm_89"
    ratios = {scheme: pick.ratio for scheme, pick in measured.picks.items()}
    assert ratios == pytest.approx({"none": 1.0, "fp8_row": 0.5, "int8_convrot": 0.7, "int8": 0.65})
    assert {pick.backend for pick in measured.picks.values()} == {None}
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
    assert unmeasured.case.found.gain == 1 and unmeasured.case.pick is None


def test_the_fastest_backend_of_a_scheme_is_advised(tmp_path: Path) -> None:
    found = rows(none=1.0, int8=0.9) + rows("torch_native", False, **{"int8-torchao": 0.4})
    found += rows("reference", False, fp8=1e-9)[:1]  # not all shapes: compared with nothing
    found += [{"op": "hadamard", "median_s": 3.0}]
    path = saved(tmp_path, found)
    picks = measured_from(path).picks
    assert picks["int8"].ratio == pytest.approx(0.4) and picks["int8"].backend == "torch_native"
    assert "fp8" not in picks
    best = ask(path).best
    assert (best.scheme, best.backend) == ("int8", "torch_native")
    assert (
        "int8 on RTX 4090: measured at 0.40 of the time of 16 bits by backend torch_native."
        in best.reasons
    )


def test_shapes_weigh_by_their_layers(tmp_path: Path) -> None:
    found = rows(none=1.0, int8=1.0)
    found[2]["median_s"] = 0.5  # int8 at 38 layers of 3072 rows
    ratio = measured_from(saved(tmp_path, found)).picks["int8"].ratio
    assert ratio == pytest.approx((38 * 0.5 + 19 * 4) / (38 + 19 * 4))


def test_what_bench_ops_writes_is_understood(tmp_path: Path) -> None:
    asked = Bench(torch.device("cpu"), torch.float32, 64, 2.0, ["int8", "int8_weight_only"])
    result = Result("ops", "2026-11-25", bench_ops([(256, 256, 3)], asked), {"gpu": None})
    measured = measured_from(write_result(tmp_path, result))
    assert measured.device == "cpu" and measured.picks["none"].ratio == 1
    assert measured.picks.keys() == {"none", "int8", "int8_weight_only"}
    job = job_of([spec("flux1-dev")], Wishes())
    assert advise(machine_of("cpu", ram_gb=64), job, measured).options[0].case.pick is not None


def test_times_of_another_device_are_not_used(tmp_path: Path) -> None:
    path = saved(tmp_path, rows(none=1.0, fp8_row=0.1))
    found = ask(path, "RTX 3090")
    assert found.best.scheme == "none"
    assert found.best.reasons[0] == (
        f"{path.name} was measured on sm_89, this is sm_86: its times are not used."
    )


def test_files_without_times_of_products_are_refused(tmp_path: Path) -> None:
    for path in (
        saved(tmp_path, rows(int8=0.5)),
        *sorted((ROOT / "benchmarks" / "results").glob("*-host-*.json")),
        *sorted((ROOT / "benchmarks" / "results").glob("*-files-*.json")),
    ):
        with pytest.raises(Refused, match="no-times-of-products"):
            measured_from(path)
    (tmp_path / "x.json").write_text("[]", encoding="utf-8")
    with pytest.raises(Refused, match="not-a-result"):
        measured_from(tmp_path / "x.json")


def test_quality_and_memory_do_not_ask_the_clock_first(tmp_path: Path) -> None:
    path = saved(tmp_path, rows(none=1.0, fp8_row=0.1))
    assert ask(path, goal="quality").best.scheme == "none"
    assert ask(path, goal="memory").best.scheme == "int4_g128"
