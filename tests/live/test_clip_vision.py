"""Quantized CLIP Vision Loader inside ComfyUI: towers have their numbers, in less memory."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

TOWERS = ("vit_h", "siglip")
DIALECTS = ("bare", "legacy", "core fp8", "core int4_g128", "core fp8_row", "lightx2v int8")
SCHEMES = (
    "fp8", "fp8_e5m2", "fp8_row", "fp8_block128", "int8", "int8_convrot", "int8_weight_only",
    "int4_g128", "auto",
)  # fmt: skip
LAYERS = 12
BOUNDS = {"fp8_e5m2": 0.15, "int4_g128": 0.5}

Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("clip-vision")
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "clip_vision", 400, folder=folder):
        found[line.pop("fact")].append(line)
    return found


def one(facts: Facts, fact: str, **of: Any) -> dict[str, Any]:
    """The single line of a question."""
    lines = [line for line in facts[fact] if all(line[key] == of[key] for key in of)]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("tower", TOWERS)
def test_an_unquantized_tower_is_left_to_comfyui(facts: Facts, tower: str) -> None:
    line = one(facts, "plain", tower=tower)
    assert line["same"]
    assert "ComfyUI's own loader" in line["text"]


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_quantized_tower_has_the_numbers_that_its_codes_mean(
    facts: Facts, tower: str, dialect: str
) -> None:
    line = one(facts, "dialect", tower=tower, dialect=dialect)
    assert line["weights"] < 1e-6
    assert line["quantized"] == line["expected"] == LAYERS
    assert 0 < line["error"] < (0.5 if "int4" in dialect else 0.1)
    assert line["bytes"] < (0.4 if "int4" in dialect else 0.6)
    assert line["copy"]


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_tower_is_quantized_while_it_is_loaded(facts: Facts, tower: str, scheme: str) -> None:
    line = one(facts, "scheme", tower=tower, scheme=scheme)
    assert line["layers"] == line["quantized"] == LAYERS
    assert 0 < line["error"] < BOUNDS.get(scheme, 0.1)
    assert line["bytes"] < (0.4 if scheme == "int4_g128" else 0.6)
    assert line["copy"]
    assert "less than in BF16" in line["text"]


@pytest.mark.parametrize("tower", TOWERS)
def test_none_is_the_unquantized_tower(facts: Facts, tower: str) -> None:
    line = one(facts, "scheme", tower=tower, scheme="none")
    assert (line["error"], line["quantized"]) == (0, 0)


def test_the_clip_of_wans_release_is_read(facts: Facts) -> None:
    plain = one(facts, "wan", dialect="plain", scheme=None)
    assert (plain["error"], plain["quantized"]) == (0, 0)
    for dialect, scheme in (("plain", "int8"), ("lightx2v int8", None), ("lightx2v fp8", None)):
        line = one(facts, "wan", dialect=dialect, scheme=scheme)
        assert line["quantized"] == LAYERS and 0 < line["error"] < 0.1
        assert line["bytes"] < 0.6
    assert one(facts, "wan", dialect="lightx2v int8", scheme="none")["quantized"] == 0


def test_what_is_no_vision_encoder_is_refused_by_name(facts: Facts) -> None:
    assert {line["name"]: line["kind"] for line in facts["refused"]} == {
        "a text encoder": "not-a-vision-encoder",
        "an unknown file": "host-does-not-know-model",
        "an unknown file, quantized": "not-a-vision-encoder",
        "no such scheme": "unknown-scheme",
    }


def _vit_h(path: Path) -> Path:
    """ViT-H at its real size; one block's numbers in every block, quick to make."""
    shapes = tiny.shapes_of("clip-vision-h", {}, {})
    made: dict[str, torch.Tensor] = {}
    tensors = {}
    for key, shape in shapes.items():
        first = re.sub(r"\.layers\.\d+\.", ".layers.0.", key)
        if first not in made:
            made[first] = tiny._tensor(first, shape, 0, torch.float16)
        tensors[key] = made[first].clone()
    save_file(tensors, str(path))
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="private memory from /proc")
def test_a_quantized_vit_h_needs_less_memory(comfy: Comfy, tmp_path: Path) -> None:
    path = _vit_h(tmp_path / "clip_vision_h.safetensors")
    plain, eight = (
        run_inside(comfy, "vision_memory", path=path, scheme=scheme)[0] for scheme in (None, "int8")
    )
    assert plain["finite"] and eight["finite"]
    assert eight["held"] < 0.51 * plain["held"]
    assert eight["private"] < 0.6 * plain["private"]
