"""Load FP8 DiT inside ComfyUI: every dialect has its numbers, quantizing on the way is the same."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

DIALECTS = ("bare", "legacy", "fp8_row", "int8")
SCHEMES = (
    "fp8", "fp8_row", "fp8_block128", "int8", "int8_convrot", "int4_g128", "mxfp8", "nvfp4",
    "w4a4_convrot", "w4a8",
)  # fmt: skip
LAYERS = 26
# modulation stays where activations have four bits
FEWER = {"nvfp4": 20, "w4a4_convrot": 20}

Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("host-load")
    flux = tiny.flux(folder / "flux.safetensors")
    lora = tiny.lora(folder / "lora.safetensors", flux)
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "host_load", 400, flux=flux, lora=lora, folder=folder):
        found[line.pop("fact")].append(line)
    return found


def one(facts: Facts, fact: str, **of: str) -> dict[str, Any]:
    """The single line of a question."""
    lines = [line for line in facts[fact] if of.items() <= line.items()]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_has_the_numbers_that_its_codes_mean(facts: Facts, dialect: str) -> None:
    line = one(facts, "dialect", dialect=dialect)
    assert line["worst"] < 1e-6
    assert line["error"] < 0.1
    assert line["factory"] == "reload"  # on a CPU ours multiplies, also what ComfyUI can read


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_fresh_copy_of_a_loaded_model_is_equal(facts: Facts, dialect: str) -> None:
    assert one(facts, "dialect", dialect=dialect)["clone"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_none_dequantizes(facts: Facts, dialect: str) -> None:
    line = one(facts, "dialect", dialect=dialect)
    assert line["none"] < 1e-6 and line["none_is_plain"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantizing_while_loading_gives_the_bits_of_quantize_model(
    facts: Facts, scheme: str
) -> None:
    line = one(facts, "quantizing", scheme=scheme)
    assert line["layers"] == FEWER.get(scheme, LAYERS) and line["times"] == [1]
    assert line["bits"] and line["rebuilt"]
    assert line["output"] < 1e-6


def test_a_lora_after_a_quantizing_load_is_fused_into_the_source(facts: Facts) -> None:
    line = one(facts, "fused after loading quantized")
    assert line["bits"]
    assert "rebuilt from the source" in line["text"]


def test_a_folder_of_shards_is_one_model(facts: Facts) -> None:
    assert one(facts, "shards")["error"] < 1e-6


def test_what_cannot_be_loaded_is_refused_by_name(facts: Facts) -> None:
    assert one(facts, "lora")["kind"] is not None
    assert one(facts, "damaged")["kind"] == "non-finite-weights"
    assert one(facts, "missing")["kind"] is not None


def test_a_damaged_layer_stays_in_full_precision(facts: Facts) -> None:
    line = one(facts, "full precision")
    assert line["layers"] == LAYERS - 1 and len(line["warnings"]) == 1
    assert line["dtype"] == "torch.bfloat16"
