"""`compare` as a user meets it: a bad layer first, a lost LoRA, pictures, levels and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusequant.cli.main import main
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.synthetic import write_flux_like

CONFIG = FluxConfig(hidden=256, double_blocks=1, single_blocks=1)
PLANTED = "single_blocks.0.linear2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare")
    write_flux_like(path / "model.safetensors", CONFIG, seed=1)
    write_lora(path / "lora.safetensors", CONFIG, "kohya", 8, seed=2)
    write_lora(path / "other.safetensors", CONFIG, "peft", 8, seed=3)
    return path


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    """Exit code and the one JSON object on stdout."""
    code = main([str(word) for word in (*words, "--json")])
    return code, json.loads(capsys.readouterr().out)


def converted(capsys: pytest.CaptureFixture[str], out: Path, *words: object) -> Path:
    code, _ = ask(capsys, "convert", *words, "--out", out)
    assert code == 0
    return out


def test_a_planted_bad_layer_is_first(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder / "model.safetensors"
    weights = load_file(model)
    weight = weights[f"{PLANTED}.weight"]
    weights[f"{PLANTED}.weight"] = weight + 0.2 * weight.std() * torch.randn(weight.shape).to(
        weight
    )
    bad = tmp_path / "bad.safetensors"
    save_file(weights, bad)
    code, answer = ask(capsys, "compare", model, bad, "--require", "normal")
    assert code == 2 and not answer["passed"]
    assert answer["layers"][0]["name"] == PLANTED
    assert PLANTED in answer["failures"][0]
    code, answer = ask(capsys, "compare", model, bad)
    assert code == 0 and not answer["passed"]


def test_what_is_left_of_each_lora(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder / "model.safetensors"
    loras = ("--lora", f"{folder / 'lora.safetensors'}:0.7", "--lora", folder / "other.safetensors")
    fused = converted(capsys, tmp_path / "fused.safetensors", model, *loras, "--scheme", "int8")
    code, answer = ask(capsys, "compare", model, fused, *loras, "--require", "normal")
    assert code == 0 and answer["passed"], answer["failures"]
    assert [lora["lora"] for lora in answer["loras"]] == ["lora.safetensors", "other.safetensors"]
    for lora in answer["loras"]:
        assert lora["kept"] == pytest.approx(1.0, abs=0.05)
    # a file that has only the second one has lost the first
    one = converted(capsys, tmp_path / "one.safetensors", model, *loras[2:], "--scheme", "int8")
    code, answer = ask(capsys, "compare", model, one, *loras, "--require", "loose")
    assert code == 2
    first, second = answer["loras"]
    assert first["kept"] == pytest.approx(0.0, abs=0.05)
    assert second["kept"] == pytest.approx(1.0, abs=0.05)


def test_a_lora_added_to_a_bare_fp8_cast_is_lost(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As tools do that hold fp8 weights, add the LoRA and cast the sum again."""
    model, lora = folder / "model.safetensors", f"{folder / 'lora.safetensors'}:0.25"
    exact = converted(
        capsys, tmp_path / "exact.safetensors", model, "--lora", lora,
        "--scheme", "none", "--dtype", "fp32",
    )  # fmt: skip
    before, after = load_file(model), load_file(exact)
    bare = {}
    for key, weight in before.items():
        narrow = weight.to(torch.float8_e4m3fn)
        delta = after[key] - weight.float()
        matrix = weight.dim() == 2
        bare[key] = (narrow.float() + delta).to(torch.float8_e4m3fn) if matrix else weight
    cast = tmp_path / "bare.safetensors"
    save_file(bare, cast)
    code, answer = ask(capsys, "compare", model, cast, "--lora", lora, "--require", "loose")
    assert code == 2
    assert answer["loras"][0]["kept"] < 0.5
    assert any("lora.safetensors:" in why and "rounded away" in why for why in answer["failures"])
    fused = converted(
        capsys, tmp_path / "fused.safetensors", model, "--lora", lora, "--scheme", "fp8"
    )
    code, answer = ask(capsys, "compare", model, fused, "--lora", lora, "--require", "loose")
    assert code == 0 and answer["loras"][0]["kept"] > 0.95


def test_a_heat_map_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder / "model.safetensors"
    made = converted(capsys, tmp_path / "int8.safetensors", model, "--scheme", "int8")
    chart = tmp_path / "chart.png"
    code, answer = ask(capsys, "compare", model, made, "--chart", chart)
    assert code == 0 and answer["chart"] == str(chart)
    assert chart.read_bytes()[:4] == b"\x89PNG"
    assert main(["compare", str(model), str(made)]) == 0
    assert "passed (normal)" in capsys.readouterr().out


def test_two_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow comes with matplotlib")
    numpy = pytest.importorskip("numpy", reason="numpy comes with matplotlib")
    generator = numpy.random.default_rng(0)
    picture = generator.integers(0, 255, (32, 32, 3), dtype=numpy.uint8)
    image.fromarray(picture).save(tmp_path / "a.png")
    image.fromarray(picture * 0).save(tmp_path / "black.png")
    code, answer = ask(
        capsys, "compare", tmp_path / "a.png", tmp_path / "black.png", "--require", "loose"
    )
    assert code == 2 and answer["image"]["black"]
    assert "the picture is black" in answer["failures"][0]
    code, answer = ask(capsys, "compare", tmp_path / "a.png", tmp_path / "a.png")
    assert code == 0 and answer["passed"] and answer["image"]["ssim"] == pytest.approx(1.0)
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    code, answer = ask(capsys, "compare", tmp_path / "a.png", tmp_path / "text.png")
    assert code == 2 and answer["error"]["kind"] == "picture-not-read"
