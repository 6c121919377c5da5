"""`--max-gb`, `--rounding` and `--input-scales` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from fusequant.cli.main import main
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.synthetic import write_like

CONFIG = FluxConfig(256, 1, 1)
LAYER = "double_blocks.0.img_attn.qkv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli-budget")
    write_like(path / "model.safetensors", CONFIG, seed=1)
    write_lora(path / "lora.safetensors", CONFIG, "peft", rank=8, seed=1)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([*map(str, arguments)])
    found = capsys.readouterr()
    return code, found.out + found.err


def test_plan_shows_what_each_layer_gets_and_why(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("plan", folder / "model.safetensors", "--lora", folder / "lora.safetensors",
             "--max-gb", "0.004", "--loads-in", "fusequant")  # fmt: skip
    code, text = said(capsys, *asked)
    assert code == 0
    assert "within" in text
    assert "all int8_convrot" in text
    assert "of its delta is left" in text
    line = next(line for line in text.splitlines() if line.strip().startswith(LAYER))
    assert " MB; " in line
    code, answer = run(capsys, *asked)
    assert code == 0
    assert answer["bytes"] <= 4_000_000
    assert answer["budget"]["max_bytes"] == 4_000_000
    assert 0 < answer["budget"]["error"] < 0.2
    assert {one["scheme"] for one in answer["budget"]["uniform"]} >= {"fp8", "int4_g128"}
    layer = next(one for one in answer["layers"] if one["name"] == LAYER)
    errors = {one["scheme"]: one["error"] for one in layer["tried"]}
    assert errors["none"] < errors["int8"] < errors["int4_g128"] < 1


def test_convert_keeps_to_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out.safetensors"
    code, answer = run(
        capsys, "convert", folder / "model.safetensors", "--max-gb", "0.006", "--rounding",
        "search", "--out", out,
    )  # fmt: skip
    assert code == 0
    assert answer["bytes"] == out.stat().st_size <= 6_000_000
    assert answer["budget"]["error"] > 0
    with safe_open(out, "pt") as file:
        recipe = json.loads(file.metadata()["fusequant"])
    assert (recipe["max_bytes"], recipe["rounding"]) == (6_000_000, "search")


def test_too_small_a_budget_is_refused_and_so_is_no_number(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder / "model.safetensors"
    code, answer = run(capsys, "plan", model, "--max-gb", "0.001")
    assert (code, answer["error"]["kind"]) == (2, "budget-too-small")
    assert "at least 0.00" in answer["error"]["expected"]
    code, answer = run(capsys, "plan", model, "--max-gb", "-3")
    assert (code, answer["error"]["kind"]) == (2, "bad-usage")


def test_a_budget_above_the_model_says_that_there_is_nothing_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said(capsys, "plan", folder / "model.safetensors", "--max-gb", "1")
    assert code == 0
    assert "1 GB hold every layer unquantized" in text
    assert "nothing to quantize" in text


def test_a_spec_is_planned_by_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "plan", "qwen-image-edit-2511", "--max-gb", "21")
    assert code == 0
    assert "cannot be measured" in text


def test_input_scales_go_into_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scales = folder / "scales.json"
    scales.write_text(json.dumps({LAYER: 0.25, "double_blocks.0.img_mlp.2": 2.0}))
    out = folder / "scaled.safetensors"
    code, _ = run(
        capsys, "convert", folder / "model.safetensors", "--scheme", "fp8", "--input-scales",
        scales, "--out", out,
    )  # fmt: skip
    assert code == 0
    with safe_open(out, "pt") as file:
        names = [key for key in file.keys() if key.endswith("input_scale")]  # noqa: SIM118
        assert sorted(names) == sorted(
            [f"{LAYER}.input_scale", "double_blocks.0.img_mlp.2.input_scale"]
        )
        assert float(file.get_tensor(f"{LAYER}.input_scale")) == 0.25


@pytest.mark.parametrize("text", ["no json", "[1]", '{"a": -1}', '{"a": "x"}'])
def test_a_file_that_holds_no_scales_is_refused(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wrong.json").write_text(text)
    code, answer = run(
        capsys, "plan", folder / "model.safetensors", "--input-scales", folder / "wrong.json"
    )
    assert (code, answer["error"]["kind"]) == (2, "not-input-scales")
