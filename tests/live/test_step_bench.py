"""The benchmark of a step, `bench_step.py`, on the smallest model: every way runs and is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fusequant.authoring import steps
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.results import Result, read_result, write_result

from . import bench_step
from .bench_step import SHORT, Rows, Size, one
from .comfy import Comfy

# below 256 a quantized layer falls under ComfyUI's limit of 16 KiB
TINY = Size(FluxConfig(256, 1, 1, 256, 256, True), SHORT)


@pytest.fixture(scope="module")
def result(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """All that the benchmark measures, of a model of four million parameters, one round."""
    folder = tmp_path_factory.mktemp("step")
    return bench_step.measured(comfy, folder, TINY, TINY, limit_s=0.0, fresh=False)


@pytest.fixture
def rows(result: Result) -> Rows:
    """The rows alone."""
    return result.rows


def test_every_way_gives_the_same_prediction(rows: Rows) -> None:
    bench_step.as_right_as_said(rows)
    assert sum(row["what"] == "step" and row["ours"] for row in rows) == 16


def test_a_ratio_is_of_the_same_round(rows: Rows) -> None:
    row, base = one(rows, "step", "int8, SDPA"), one(rows, "step", "core fp32")
    assert row["rounds"] == 1  # the first is made whatever the limit
    assert row["over_fp32"] == row["samples_s"][0] / base["samples_s"][0]
    assert base["over_fp32"] == 1.0


def test_what_is_too_slow_is_compared_with_few_tokens() -> None:
    base = {"samples_s": [2.0, 4.0], "first_s": 3.0, "short_s": 0.5}
    assert bench_step.ratio({"samples_s": [1.0, 1.0]}, base) == 0.375
    assert bench_step.ratio({"samples_s": [], "first_s": 6.0}, base) == 2.0
    assert bench_step.ratio({"samples_s": [], "short_s": 5.0}, base) == 10.0
    assert bench_step.ratio({"why_not": "no units"}, base) is None


def test_loras_and_memory_are_measured(rows: Rows) -> None:
    assert all(row["change_s"] > 0 for row in rows if row["what"] == "lora")
    assert one(rows, "memory", "int8")["step_s"] > 0


def test_the_page_is_made_from_them(result: Result, tmp_path: Path) -> None:
    read = read_result(write_result(tmp_path, result))
    told = steps.page(read)
    assert "| int8, SDPA, Live LoRA |" in told and "| ComfyUI, fp8, stock LoRA |" in told
    assert "nothing compiled" in told
    assert "| ComfyUI, int8 |" in steps.short(read)


def test_the_page_says_what_was_asked_with_few_tokens_only(result: Result) -> None:
    slow = dict(one(result.rows, "step", "core int8"), median_s=None, rounds=0)
    slow.pop("first_s", None)
    told = steps.page(replace(result, rows=[slow]))
    assert "| ComfyUI, int8 | with 32 tokens only |" in told
