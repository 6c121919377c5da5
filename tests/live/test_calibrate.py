"""Calibrate FP8 inside ComfyUI: the right scales, kept everywhere, nothing left behind."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

Facts = dict[str, list[dict[str, Any]]]
FP8_LAYERS = 25  # of the tiny FLUX, one is kept


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("calibrate")
    model = tiny.flux(folder / "flux.safetensors")
    lora = tiny.lora(folder / "lora.safetensors", model)
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "host_calibrate", 500, model=model, lora=lora, folder=folder):
        found[line.pop("fact")].append(line)
    return found


def one(facts: Facts, fact: str) -> dict[str, Any]:
    (line,) = facts[fact]
    return line


def test_every_fp8_layer_gets_the_scale_of_its_largest_input(facts: Facts) -> None:
    line = one(facts, "scales")
    assert len(line["found"]) == FP8_LAYERS
    assert "single_blocks.0.linear2" not in line["found"]
    for name, scale in line["found"].items():
        assert scale == pytest.approx(line["expected"][name], rel=1e-3), name
    assert f"input_scale set on {FP8_LAYERS} fp8 layers" in line["text"]


def test_what_comes_in_is_not_changed(facts: Facts) -> None:
    line = one(facts, "scales")
    assert line["upstream"] == {}
    assert line["same_bits"]
    assert line["rng"]
    assert line["hooks"] == [0, 0]
    assert one(facts, "untouched")["changed"] == []


@pytest.mark.parametrize("where", ["clone", "fresh", "stock", "ours"])
def test_scales_are_kept(facts: Facts, where: str) -> None:
    line = one(facts, "kept")
    assert line["scales"][where] == line["wanted"]
    assert line["stock_output"] < 1e-6


def test_an_error_or_a_stop_leaves_nothing_behind(facts: Facts) -> None:
    line = one(facts, "errors")
    assert line["found"] == ["stopped", "no-prompt", "activations-not-finite"]
    assert line["hooks"] == 0
    assert line["scales"] == {}
    assert line["watched"][0] == 0


def test_percentile_and_margin_say_how_much_room_there_is(facts: Facts) -> None:
    line = one(facts, "percentile")
    for name, scale in line["whole"].items():
        assert line["most"][name] < scale
        assert line["double"][name] == pytest.approx(2 * scale, rel=1e-5)


def test_quantizing_after_it_uses_what_was_measured(facts: Facts) -> None:
    line = one(facts, "before")
    assert line["unquantized"] == {}
    assert "no layer is fp8 here" in line["text"]
    assert line["memory"] == line["cached"]
    assert len(line["memory"]) == FP8_LAYERS + 1
    for name, scale in line["memory"].items():
        assert scale == pytest.approx(line["scales"][name], rel=1e-6)
    assert line["fused"]
    assert line["other"] == {}
    assert "inputs as measured while sampling" in line["budget"]
    assert line["file"] == line["scales"]
