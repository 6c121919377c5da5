"""Quantize Model inside ComfyUI: nothing upstream changes, fusing is first, files are core's."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

BLOCKS = ("mxfp8", "nvfp4", "w4a4_convrot", "w4a8")
CORE = ("fp8", "fp8_e5m2", "int8", "int8_convrot", "int8_weight_only", *BLOCKS)
OWN = ("fp8_row", "fp8_block128", "int4_g128")
LAYERS = 26  # of a FLUX with two double and two single blocks, modulation included
# modulation stays where activations have four bits
FEWER = {"nvfp4": 20, "w4a4_convrot": 20}
FOUR_BIT = ("int4_g128", "nvfp4", "w4a4_convrot", "w4a8")
# output error of the tiny FLUX over the unquantized one
BOUNDS = {
    "fp8_e5m2": 0.12, "int4_g128": 0.35, "nvfp4": 0.12, "w4a4_convrot": 0.25, "w4a8": 0.15,
}  # fmt: skip
# a forced backend rounds the activations that the host leaves as they are on a CPU
ROUNDED = {"mxfp8": 0.08, "nvfp4": 0.2}
# before 0.38 stock ComfyUI quantizes the activations of int8_weight_only too; a rotated activation
# between two codes goes either way, as the sums of the rotation are ordered
STOCK_DIFFERENCE = {"int8_weight_only": 0.05, "int8_convrot": 0.005, "w4a8": 0.005}

Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("host")
    model = tiny.flux(folder / "flux.safetensors")
    lora = tiny.lora(folder / "lora.safetensors", model)
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "host_quantize", 400, model=model, lora=lora, folder=folder):
        found[line.pop("fact")].append(line)
    return found


def one(facts: Facts, fact: str, scheme: str | None = None) -> dict[str, Any]:
    """The single line of a question."""
    lines = [line for line in facts[fact] if scheme is None or line["scheme"] == scheme]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("scheme", (*CORE, *OWN))
def test_every_scheme_runs_and_each_weight_is_quantized_once(facts: Facts, scheme: str) -> None:
    line = one(facts, "scheme", scheme)
    assert 0 < line["error"] < BOUNDS.get(scheme, 0.08)
    layers = FEWER.get(scheme, LAYERS)
    assert (line["layers"], line["counted"], line["times"]) == (layers, layers, [1])
    assert line["saved"] < (0.3 if scheme in FOUR_BIT else 0.52)


@pytest.mark.parametrize("scheme", (*CORE, *OWN))
def test_a_clone_a_partial_load_and_a_rebuild_give_the_same_output(
    facts: Facts, scheme: str
) -> None:
    line = one(facts, "scheme", scheme)
    assert line["clone"] and line["partly"] and line["rebuilt"]


@pytest.mark.parametrize("scheme", (*CORE, *OWN))
def test_a_saved_model_loads_bit_for_bit(facts: Facts, scheme: str) -> None:
    line = one(facts, "scheme", scheme)
    assert line["reloaded_bits"]
    assert line["reloaded_output"] < STOCK_DIFFERENCE.get(scheme, 1e-6)


@pytest.mark.parametrize("scheme", (*CORE, *OWN))
def test_a_lora_is_fused_before_quantizing(facts: Facts, scheme: str) -> None:
    line = one(facts, "lora", scheme)
    layers = FEWER.get(scheme, LAYERS)
    assert line["layers"] == layers and line["live"] == LAYERS - layers
    assert line["fused"] < line["after"]
    assert line["untouched"]


def test_a_lora_on_a_quantized_file_is_not_lost(facts: Facts) -> None:
    line = one(facts, "quantized source")
    assert line["delta"] > 0.1
    assert line["error"] < 0.02


def test_codes_that_are_there_already_stay(facts: Facts) -> None:
    line = one(facts, "stored already")
    assert line["quantized"] == 0 and line["bits"]


def test_quantizing_twice_starts_from_the_source(facts: Facts) -> None:
    line = one(facts, "again")
    assert line["bits"]
    assert "rebuilt from the source: it was int4_g128 before" in line["text"]
    assert one(facts, "between")["bits"]
    assert one(facts, "back to none") == {"quantized": 0, "live": LAYERS}


def test_what_comes_in_is_not_changed(facts: Facts) -> None:
    assert one(facts, "upstream") == {"output": True, "bits": True}


def test_no_function_or_global_of_the_host_is_replaced(facts: Facts) -> None:
    line = one(facts, "host untouched")
    assert line["looked_at"] > 3000
    assert line["changed"] == []


def test_what_cannot_be_done_is_refused_by_name(facts: Facts) -> None:
    assert one(facts, "no factory")["kind"] == "no-pristine-source"
    assert "Load Diffusion Model" in one(facts, "no factory")["text"]
    assert one(facts, "damaged")["kind"] == "non-finite-weights"
    assert one(facts, "unknown scheme")["kind"] == "unknown-scheme"


def test_a_damaged_layer_stays_in_full_precision_with_a_warning(facts: Facts) -> None:
    line = one(facts, "full precision")
    assert line["quantized"] == LAYERS - 1
    assert len(line["warnings"]) == 1 and "double_blocks.0.img_attn.qkv" in line["warnings"][0]
    assert line["live"] == ["diffusion_model.double_blocks.0.img_attn.qkv.weight"]


def test_an_interrupt_ends_the_node(facts: Facts) -> None:
    assert one(facts, "interrupt")["raised"] == "InterruptProcessingException"


@pytest.mark.parametrize("scheme", CORE)
def test_a_forced_backend_changes_who_multiplies_and_nothing_else(
    facts: Facts, scheme: str
) -> None:
    line = one(facts, "forced", scheme)
    assert len(line["layouts"]) == 1 and line["layouts"][0].startswith("FuseQuant")
    assert line["bits"]
    assert line["stock"] < STOCK_DIFFERENCE.get(scheme, 1e-6)
    assert line["difference"] < ROUNDED.get(scheme, 0.05)


def test_a_backend_that_is_missing_is_refused_or_told(facts: Facts) -> None:
    assert one(facts, "no backend")["kind"] == "backend-unavailable"
    assert len(one(facts, "implied")["warnings"]) == 1


@pytest.mark.parametrize("scheme", ("int8", *OWN))
def test_a_compiled_block_gives_the_same_numbers(facts: Facts, scheme: str) -> None:
    assert one(facts, "compiled", scheme)["equal"]


def test_eight_bit_weights_leave_activations_as_they_are(facts: Facts) -> None:
    weights_only, both = (one(facts, "scheme", s)["error"] for s in ("int8_weight_only", "int8"))
    assert weights_only < 0.8 * both
