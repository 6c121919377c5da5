"""The benchmark of a step, `bench_step.py`, on the smallest model: every way runs and is right."""

from __future__ import annotations

from typing import Any

import pytest

from fusequant.authoring import steps
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.results import Result

from . import bench_step
from .bench_step import SHORT, Size, one
from .comfy import Comfy

# below 256 a quantized layer falls under ComfyUI's limit of 16 KiB
TINY = Size(FluxConfig(256, 1, 1, 256, 256, True), SHORT)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def rows(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """All that the benchmark measures, but for its model and one round."""
    folder = tmp_path_factory.mktemp("step")
    files = bench_step.write_files(folder, TINY.config)
    found = bench_step.step_rows(comfy, files, TINY, limit_s=0.0, fresh=False)
    found += bench_step.lora_rows(comfy, files, folder / "user")
    return found + bench_step.memory_rows(comfy, files, TINY, [("int8", SHORT)])


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


def test_the_page_is_made_from_them(rows: Rows) -> None:
    settings = {"parameters": 5_000_000, "memory_parameters": 5_000_000, "image_tokens": 16,
                "text_tokens": 16, "blocks": [1, 1], "hidden": 256, "rank": 32}  # fmt: skip
    told = steps.page(Result("step", "2026-01-01", rows, {}, settings=settings))
    assert "| int8, SDPA, Live LoRA |" in told and "| ComfyUI, fp8, stock LoRA |" in told
    assert "nothing compiled" in told
