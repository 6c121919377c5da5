"""Int8 rows that a tool rotated without a word of it: read right on the user's word, everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusequant.cli.main import main
from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.inspect import inspect
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.synthetic import write_flux_like
from fusequant.engine.pipeline import Request, convert, prepare
from fusequant.engine.read import read
from fusequant.engine.rotated import AS_STORED, rotation

PREFIX = "model.diffusion_model."
QKV = "double_blocks.0.img_attn.qkv"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 16-bit model, what it is as int8_convrot, and that as INT8-Fast saves it."""
    where = tmp_path_factory.mktemp("rotated")
    config = FluxConfig(hidden=256, double_blocks=1, single_blocks=1)
    write_flux_like(where / "plain.safetensors", config, seed=1)
    prepared = prepare(open_source(where / "plain.safetensors"), (), Request("int8_convrot"))
    convert(prepared, where / "marked.safetensors")
    tensors = load_file(where / "marked.safetensors")
    saved = {PREFIX + k: x for k, x in tensors.items() if not k.endswith("comfy_quant")}
    save_file(saved, where / "saved.safetensors")
    unmarked = {k: x for k, x in tensors.items() if not k.endswith("comfy_quant")}
    save_file(unmarked, where / "rows.safetensors")
    return where


def asked(*argv: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    code = main([*map(str, argv), "--json"])
    return code, json.loads(capsys.readouterr().out)


def worst(folder: Path, name: str, capsys: pytest.CaptureFixture[str], *more: str) -> float:
    plain = folder / "plain.safetensors"
    _, answer = asked("compare", plain, folder / name, *more, capsys=capsys)
    found = answer["worst"]
    assert isinstance(found, float)
    return found


@pytest.mark.parametrize("name", ["saved.safetensors", "rows.safetensors"])
def test_compare_with_and_without_the_user_s_word(folder, name, capsys) -> None:
    right = worst(folder, "marked.safetensors", capsys)
    assert worst(folder, name, capsys, "--rotated") == right < 0.02
    assert worst(folder, name, capsys) > 0.5


def test_inspect_tells_of_the_doubt_until_it_is_answered(folder, capsys) -> None:
    _, doubt = asked("inspect", folder / "saved.safetensors", capsys=capsys)
    _, sure = asked("inspect", folder / "saved.safetensors", "--rotated", capsys=capsys)
    problems = [[p["kind"] for p in answer["problems"]] for answer in (doubt, sure)]
    assert "maybe-rotated" in problems[0] and "maybe-rotated" not in problems[1]
    assert "--rotated" in next(p for p in doubt["problems"] if p["kind"] == "maybe-rotated")["fix"]
    assert doubt["layers"]["int8"] == sure["layers"]["int8_convrot"] > 5


def test_repair_writes_the_marker_that_was_missing(folder, tmp_path, capsys) -> None:
    out = tmp_path / "repaired.safetensors"
    saved = folder / "saved.safetensors"
    assert asked("repair", saved, "--out", out, "--rotated", capsys=capsys)[0] == 0
    mended, marked = load_file(out), load_file(folder / "marked.safetensors")
    assert set(mended) == set(marked)
    assert all(torch.equal(mended[name].view(torch.uint8), marked[name].view(torch.uint8))
               for name in marked if marked[name].dim())  # fmt: skip
    assert inspect(out).problems == ()


def test_dequant_and_convert_start_from_the_right_numbers(folder, tmp_path, capsys) -> None:
    saved = folder / "saved.safetensors"
    plain, again = tmp_path / "plain.safetensors", tmp_path / "int8.safetensors"
    asked("dequant", saved, "--out", plain, "--dtype", "bf16", "--rotated", "256", capsys=capsys)
    asked("dequant", folder / "marked.safetensors", "--out", again, "--dtype", "bf16",
          capsys=capsys)  # fmt: skip
    found, expected = load_file(plain), load_file(again)
    assert all(found[PREFIX + name].equal(expected[name]) for name in expected)
    code, answer = asked(
        "convert", saved, "--scheme", "int8", "--out", again, "--rotated", capsys=capsys
    )
    assert code == 0 and answer["layers"]["int8"] > 5
    with safe_open(again, "pt") as file:
        assert json.loads(file.metadata()["fusequant"])["rotated"] == 256
    right = worst(folder, "marked.safetensors", capsys)
    source = open_source(folder / "plain.safetensors")
    source.close()
    code, answer = asked("compare", folder / "plain.safetensors", again, capsys=capsys)
    assert right < answer["worst"] < 0.05


def test_plan_counts_codes_that_stay(folder, capsys) -> None:
    saved = folder / "saved.safetensors"
    _, answer = asked("plan", saved, "--scheme", "int8_convrot", "--rotated", capsys=capsys)
    assert answer["warnings"] == []
    _, answer = asked("plan", saved, "--scheme", "int8_convrot", capsys=capsys)
    assert "rounds them twice" in answer["warnings"][0]


def test_a_group_is_a_power_of_four(folder, capsys) -> None:
    code, answer = asked("inspect", folder / "saved.safetensors", "--rotated", "100", capsys=capsys)
    assert code == 2 and "100 is no group" in answer["error"]["found"]


def test_a_file_without_such_rows_is_refused(folder, capsys) -> None:
    for name in ("plain.safetensors", "marked.safetensors"):
        code, answer = asked("inspect", folder / name, "--rotated", capsys=capsys)
        assert (code, answer["error"]["kind"]) == (2, "nothing-rotated")
    source = open_source(folder / "saved.safetensors")
    with pytest.raises(Refused, match="nothing-rotated"):
        read(source, 4096)
    source.close()


@pytest.mark.parametrize("said", [None, "", AS_STORED, 0, "0"])
def test_what_means_nothing(said: object) -> None:
    assert rotation(said) is None


def test_what_means_a_group() -> None:
    assert (rotation("256"), rotation(64)) == (256, 64)
    for said in ("yes", "100", -4, 2.5, True):
        with pytest.raises(Refused, match="rotation-group"):
            rotation(said)
