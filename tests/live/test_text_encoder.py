"""Quantized T5/CLIP Loader inside ComfyUI: dialects have their numbers, types their encoders."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from .comfy import Comfy
from .inprocess import run_inside

QUANTIZED = (
    "legacy", "core fp8", "core int8", "core int8_convrot", "core int4_g128", "core fp8_row",
    "core nvfp4", "core mxfp8", "core w4a8", "core w4a4_convrot",
    "lightx2v int8", "lightx2v fp8",
)  # fmt: skip
SCHEMES = (
    "fp8", "fp8_e5m2", "fp8_row", "fp8_block128", "int8", "int8_convrot", "int8_weight_only",
    "int4_g128", "mxfp8", "nvfp4", "w4a4_convrot", "w4a8",
)  # fmt: skip
CLIP_LAYERS, T5_LAYERS, T5_FOUR_BIT = 18, 21, 9
# output error over the unquantized encoder, by scheme, of random weights with outliers
BOUNDS = {"fp8_e5m2": 0.2, "int4_g128": 0.8, "nvfp4": 0.8, "w4a4_convrot": 0.8, "w4a8": 0.4}
SMALL, FOUR_BIT = 0.15, 0.6
# the same of a weight: 4 bits lose a fifth where columns are six times as loud as others
WEIGHT_BOUNDS = {"int4_g128": 0.3}

Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("text-encoder")
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "text_encoder", 400, folder=folder):
        found[line.pop("fact")].append(line)
    return found


def one(facts: Facts, fact: str, **of: Any) -> dict[str, Any]:
    """The single line of a question."""
    lines = [line for line in facts[fact] if all(line[key] == of[key] for key in of)]
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("dialect", QUANTIZED)
def test_codes_go_to_the_product_though_another_dtype_is_computed_in(
    facts: Facts, dialect: str
) -> None:
    ops = one(facts, "clip", dialect=dialect)["ops"]
    assert any(op.endswith("linear") for op in ops), ops


@pytest.mark.parametrize("dialect", QUANTIZED)
def test_a_clip_has_the_numbers_that_its_codes_mean(facts: Facts, dialect: str) -> None:
    line = one(facts, "clip", dialect=dialect)
    assert line["weights"] < 1e-6
    assert line["quantized"] == line["layers"] == CLIP_LAYERS
    assert 0 < line["error"] < (FOUR_BIT if "4" in dialect else SMALL)
    assert line["bytes"] < 0.95
    assert line["copy"]


def test_on_a_cpu_a_bare_cast_is_multiplied_by_ours(facts: Facts) -> None:
    line = one(facts, "clip", dialect="bare")
    assert line["weights"] == 0 and line["error"] < SMALL
    assert "18 x fp8" in line["text"]


def test_the_stock_loader_makes_noise_of_a_quantized_clip(facts: Facts) -> None:
    assert one(facts, "stock clip")["error"] > 0.5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantizing_while_loading_gives_the_bits_of_quantize_model(
    facts: Facts, scheme: str
) -> None:
    line = one(facts, "clip scheme", scheme=scheme)
    assert line["layers"] == CLIP_LAYERS
    assert line["bits"] and line["copy"]
    assert line["output"] < 1e-5
    assert 0 < line["error"] < BOUNDS.get(scheme, SMALL)
    assert line["device"] == ["cpu", "cpu"]


def test_none_is_the_unquantized_encoder(facts: Facts) -> None:
    line = one(facts, "clip scheme", scheme="none")
    assert (line["error"], line["layers"]) == (0, 0)


def test_easy_names_are_exact_schemes(facts: Facts) -> None:
    found = {line["name"]: line["schemes"] for line in facts["named scheme"]}
    assert found == {
        "auto": {"int8": CLIP_LAYERS},
        "8-bit": {"int8_weight_only": CLIP_LAYERS},
        "4-bit": {"int4_g128": CLIP_LAYERS},
    }


def test_quantize_model_takes_our_clip_and_starts_from_its_source(facts: Facts) -> None:
    line = one(facts, "clip source")
    assert line["same"]
    assert line["again"] == CLIP_LAYERS and line["error"] < SMALL
    assert "rebuilt from the source" in line["text"]


def test_a_core_native_t5_gives_what_the_stock_loader_gives(facts: Facts) -> None:
    line = one(facts, "t5 native")
    assert line["stock"] < 1e-5 and line["translated"] < 1e-5
    assert "22 x fp8" in line["text"]
    assert "translated for ComfyUI" in line["both"]


@pytest.mark.parametrize(("scheme", "smaller"), [("int8", 0.53), ("int4_g128", 0.3)])
def test_t5_and_clip_are_quantized_together(facts: Facts, scheme: str, smaller: float) -> None:
    line = one(facts, "t5 scheme", scheme=scheme)
    matrices = T5_FOUR_BIT if scheme == "int4_g128" else T5_LAYERS  # narrow ones fall under 16 KiB
    assert line["layers"] == matrices + CLIP_LAYERS
    assert line["bytes"] < smaller
    assert line["weights"] < WEIGHT_BOUNDS.get(scheme, 0.05)
    assert line["error"] < (1.0 if scheme == "int4_g128" else 0.2)
    assert "less than in BF16" in line["text"]


@pytest.mark.parametrize(("file", "scheme"), [("int8", None), ("bf16", "int8")])
def test_the_umt5_of_wans_release_is_read(facts: Facts, file: str, scheme: str | None) -> None:
    line = one(facts, "wan", file=file, scheme=scheme)
    assert line["quantized"] == line["layers"] == T5_LAYERS
    assert line["error"] < 0.25
    assert "tokenizer taken from" in line["text"]


def test_an_unquantized_pth_is_exact(facts: Facts) -> None:
    assert one(facts, "wan", file="bf16", scheme=None)["error"] == 0
    assert one(facts, "wan", file="int8", scheme="none")["quantized"] == 0


def test_a_umt5_without_a_tokenizer_is_refused_by_name(facts: Facts) -> None:
    assert {line["missing"] for line in facts["wan"]} == {"tokenizer-missing"}


@pytest.mark.parametrize("scheme", ["int8", "int4_g128", "fp8_row"])
def test_qwen_vl_is_quantized_and_its_vision_tower_is_not(facts: Facts, scheme: str) -> None:
    line = one(facts, "qwen", scheme=scheme)
    assert (line["layers"], line["visual"]) == (14, [])
    assert line["weights"] < WEIGHT_BOUNDS.get(scheme, 0.05)
    assert line["finite"]
    assert "vision tower" in line["text"]


@pytest.mark.parametrize("scheme", ["int8", "int4_g128"])
def test_layers_that_comfyui_renames_are_quantized_too(facts: Facts, scheme: str) -> None:
    line = one(facts, "qwen3", scheme=scheme)
    assert line["layers"] == len(line["quantized"]) == 14
    assert not any("visual" in name for name in line["quantized"])


def test_every_type_of_comfyuis_loader_works(facts: Facts) -> None:
    found = [line for line in facts["kind"] if line["error"] is not None]
    assert len(facts["kind"]) >= 20
    assert len(facts["kind"]) - len(found) <= 1  # a type whose tokenizer this ComfyUI lacks
    assert all(0 < line["error"] < SMALL for line in found)


def test_an_encoder_that_no_file_holds_is_named(facts: Facts) -> None:
    line = one(facts, "sd3")
    assert line["layers"] == T5_LAYERS + CLIP_LAYERS
    assert line["missing"] == "text-encoder-missing"


def test_wrong_files_and_choices_are_refused_by_name(facts: Facts) -> None:
    assert {line["name"]: line["kind"] for line in facts["refused"]} == {
        "no such kind": "text-encoder-type",
        "too many": "text-encoder-count",
        "a diffusion model": "not-a-text-encoder",
        "another width": "text-encoder-type",
        "no such scheme": "unknown-scheme",
        "no such device": "text-encoder-device",
    }
