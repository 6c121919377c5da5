"""What the nodes cost on a large model, beside ComfyUI's own way; run by name, not with the tests.

    python -m pytest tests/live/bench_host.py -s

Each job is a process of its own. The rows go to benchmarks/results.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest

from fusequant.cli.main import main
from fusequant.engine.measure.hardware import hardware
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.results import Result, write_result
from fusequant.engine.measure.synthetic import write_flux_like

from .comfy import Comfy
from .inprocess import run_inside

GIB = float(os.environ.get("FUSEQUANT_BENCH_GIB", "4"))
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
LIMIT_S = 1200.0
ROUNDS = 5
FIXED_S = 0.5  # headers, the host's model of a few hundred modules


@pytest.fixture(scope="module")
def rows(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every job once, in order; the files are made first."""
    folder = tmp_path_factory.mktemp("bench-host")
    model, lora = folder / "model.safetensors", folder / "lora.safetensors"
    config = write_flux_like(model, int(GIB * 2**30))
    write_lora(lora, config, "kohya", 32)
    found: list[dict[str, Any]] = []

    def job(name: str, **options: Any) -> dict[str, Any]:
        asked = {"job": name, "user": folder / "user", **options}
        made = run_inside(comfy, "host_jobs", LIMIT_S, fresh=True, **asked)
        found.extend({k: v for k, v in row.items() if k != "report"} for row in made)
        return found[-1]

    for cache in ("off", "on"):
        job("quantize", model=model, scheme="int8", cache=cache)
    job("cached_start", model=model, lora=lora, scheme="int8", rounds=ROUNDS)
    job("stock_start", model=model, lora=lora, scheme="int8")
    for scheme in ("int8", "fp8"):
        quantized = folder / f"{scheme}.safetensors"
        assert main(["convert", str(model), "--scheme", scheme, "--out", str(quantized)]) == 0
        for name in ("stock_lora", "live_lora"):
            job(name, quantized=quantized, lora=lora)["scheme"] = scheme
        quantized.unlink()
    result = Result(
        benchmark="host",
        date=datetime.date.today().isoformat(),
        rows=found,
        hardware=hardware(),
        settings={"gib": GIB, "comfyui": (comfy.path / "comfyui_version.py").read_text()[-10:]},
    )
    write_result(RESULTS, result)
    return found


def one(rows: list[dict[str, Any]], **of: str) -> dict[str, Any]:
    """The row of a job."""
    return next(row for row in rows if of.items() <= row.items())


def test_quantizing_in_memory_holds_little_more_than_the_result(rows: list[dict[str, Any]]) -> None:
    assert one(rows, job="quantize", cache="off")["over_baseline_bytes"] < 4 << 30


def test_quantizing_through_the_cache_holds_little(rows: list[dict[str, Any]]) -> None:
    assert one(rows, job="quantize", cache="on")["over_baseline_bytes"] < 1.5 * 2**30


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_a_live_strength_change_takes_no_time(rows: list[dict[str, Any]], scheme: str) -> None:
    live = one(rows, job="live_lora", scheme=scheme)
    assert min(live["change_s"], live["again_s"]) < 0.1
    assert live["change_s"] < one(rows, job="stock_lora", scheme=scheme)["change_s"] / 20


@pytest.mark.parametrize("state", ["warm", "cold"])
def test_a_cached_recipe_starts_in_the_time_of_reading_it(
    rows: list[dict[str, Any]], state: str
) -> None:
    """Nothing of the model is read before its first step: what is left is the same for any size."""
    start = one(rows, job="cached_start")
    assert start[f"{state}_start_s"] < 1.2 * start[f"{state}_read_s"] + FIXED_S
    assert start["over_baseline_bytes"] < 64 << 20
