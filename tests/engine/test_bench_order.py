"""The order benchmark on a small model: eight strategies, and what order does to the error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fusequant.engine.bench.order import bench_order, error_chart, time_chart
from fusequant.engine.bench.strategies import STRATEGIES, WITH_SCHEME, Task
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.picture import pixels, stacked
from fusequant.engine.measure.synthetic import write_flux_like
from fusequant.engine.rows import all_schemes

SMALL = FluxConfig(hidden=256, double_blocks=1, single_blocks=1)
GRID = (4, 4)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("order")
    write_flux_like(folder / "model.safetensors", SMALL, seed=1)
    write_lora(folder / "lora.safetensors", SMALL, "kohya", 8, seed=1)
    return Task(
        folder / "model.safetensors", folder / "lora.safetensors", "int8", folder, GRID, 8
    )  # fmt: skip


def test_all_strategies_mean_the_same_model(task: Task) -> None:
    found = {}
    for name, make in STRATEGIES.items():
        made = make(task)
        made.load(0.9)
        found[name] = made.step()
    exact = found["lora_patch"]
    for name, output in found.items():
        assert float((output - exact).norm() / exact.norm()) < 0.1, name
    assert torch.equal(found["fused"], found["low_vram_fused"])
    assert torch.equal(found["fused"], found["low_vram"])


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_switch_and_back_is_the_same_model(task: Task, name: str) -> None:
    made = STRATEGIES[name](task)
    made.load(1.0)
    first = made.step()
    made.switch(0.2)
    other = made.step()
    made.switch(1.0)
    assert not torch.equal(first, other)
    assert torch.equal(first, made.step())


def test_rows_of_one_run(tmp_path: Path) -> None:
    rows = bench_order(tmp_path, ["int8"], rounds=1, config=SMALL)
    by_name = {row.strategy: row for row in rows}
    assert set(by_name) == set(STRATEGIES)
    after, fused = by_name["quantize_then_lora"], by_name["fused_quantized"]
    assert 0 < fused.weight_error < after.weight_error
    assert by_name["live_lora"].switch_s < 0.01
    assert all(row.step_s > 0 and len(row.steps_s) == 1 for row in rows)
    assert {row.scheme for row in rows if row.strategy in WITH_SCHEME} == {"int8"}
    told = [row.to_json() for row in rows]
    for figure in (error_chart(told, "a note"), time_chart(told)):
        assert not isinstance(figure, str), figure
        drawn = pixels(figure)
        assert stacked([drawn, drawn[:, :, :100]]).shape[1] == 2 * drawn.shape[1]


@pytest.mark.parametrize("scheme", [name for name in all_schemes() if name != "none"])
def test_fused_before_quantizing_errs_less_than_after(task: Task, scheme: str) -> None:
    errors = {}
    for name in ("fused_quantized", "quantize_then_lora"):
        made = STRATEGIES[name](Task(task.model, task.lora, scheme, task.folder, GRID, 8))
        made.load(1.0)
        total = 0.0
        for key in made.touched:
            layer = made.source.layers[key].name
            exact = made.source.whole(key, made.source.fused(1.0))
            total += float((made.numbers(layer) - exact).norm() / exact.norm())
        errors[name] = total
    assert errors["fused_quantized"] < errors["quantize_then_lora"]
