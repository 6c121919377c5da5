"""The cache of Quantize Model: a recipe is a file load, damage is mended, the limit holds."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from . import tiny
from .comfy import Comfy
from .conftest import Models
from .graphs import Graph, Node, sample, save_latent
from .inprocess import run_inside
from .server import ComfyServer

SCHEMES = (
    "fp8", "int8", "int8_convrot", "fp8_row", "int4_g128", "mxfp8", "nvfp4", "w4a4_convrot", "w4a8",
)  # fmt: skip
LAYERS = 26  # of the tiny FLUX
# modulation stays where activations have four bits
FEWER = {"nvfp4": 20, "w4a4_convrot": 20}

Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("cache")
    model = tiny.flux(folder / "flux.safetensors")
    lora = tiny.lora(folder / "lora.safetensors", model)
    found: Facts = defaultdict(list)
    for line in run_inside(
        comfy, "host_cache", 300, model=model, lora=lora, folder=folder / "user"
    ):
        found[line.pop("fact")].append(line)
    return found


def one(facts: Facts, fact: str, **of: str) -> dict[str, Any]:
    """The single line of a question."""
    lines = [line for line in facts[fact] if of.items() <= line.items()]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("fact", ["plain", "fused"])
def test_the_cached_model_has_the_bits_of_the_one_made_in_memory(
    facts: Facts, fact: str, scheme: str
) -> None:
    line = one(facts, fact, scheme=scheme)
    assert line["bits"] and line["again"] and line["rebuilt"]
    assert line["output"] == 0
    layers = FEWER.get(scheme, LAYERS)
    assert line["layers"] == [layers] * 3
    fused, live = (layers, LAYERS - layers) if fact == "fused" else (0, 0)
    assert line["loras"] == [fused, fused, fused, live]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_second_run_of_a_recipe_loads_the_file_of_the_first(facts: Facts, scheme: str) -> None:
    line = one(facts, "fused", scheme=scheme)
    assert line["same_file"]
    assert "will write 0.01 GB" in line["first"] and "from the cache" not in line["first"]
    assert "from the cache" in line["second"] and "will write" not in line["second"]


def test_another_strength_proposes_live_lora(facts: Facts) -> None:
    line = one(facts, "strength")
    assert line["files"] == 2
    assert "Live LoRA" not in line["first"]
    assert "Live LoRA" in line["second"]
    assert "from the cache" in line["back"]


def test_a_cached_model_is_quantized_again_from_the_source(facts: Facts) -> None:
    assert one(facts, "quantized again") == {"bits": True, "late": True}


@pytest.mark.parametrize("how", ["cut", "header", "longer", "empty"])
def test_a_damaged_file_is_made_again(facts: Facts, how: str) -> None:
    line = one(facts, "damaged", how=how)
    assert line["bits"] and line["whole"]
    assert "will write" in line["text"]


def test_a_model_outlives_its_file(facts: Facts) -> None:
    assert one(facts, "removed")["output"] == 0


def test_the_file_used_longest_ago_makes_room(facts: Facts) -> None:
    line = one(facts, "limit")
    assert line["gone"] == 1
    assert line["held"] <= line["limit"]
    assert all("from the cache" in text for text in line["texts"])


def test_what_never_fits_is_made_in_memory(facts: Facts) -> None:
    line = one(facts, "too large")
    assert line["layers"] == LAYERS and line["files"] == 3
    assert "not cached: the result takes" in line["text"]


def test_small_models_are_not_kept_unless_asked(facts: Facts) -> None:
    line = one(facts, "auto")
    assert line["files"] == 0 and "cache" not in line["text"]


def test_what_has_no_content_to_compare_is_made_in_memory(facts: Facts) -> None:
    line = one(facts, "merge")
    assert line["files"] == 0 and "not cached" in line["text"]


def test_a_layer_that_fails_stays_in_full_precision(facts: Facts) -> None:
    line = one(facts, "nan")
    assert line["files"] == 0 and line["warnings"] == 1
    assert "not cached: non-finite-weights" in line["text"]


def test_an_interrupt_leaves_no_file(facts: Facts) -> None:
    assert len(facts["interrupt"]) == 2
    for line in facts["interrupt"]:
        assert line == {"raised": "InterruptProcessingException", "files": 0, "threads": 1}


def test_what_comes_in_is_not_changed(facts: Facts) -> None:
    assert one(facts, "upstream")["same"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_full_model_is_never_in_memory(comfy: Comfy, tmp_path: Path) -> None:
    lines = run_inside(comfy, "cache_memory", 300, folder=tmp_path)
    shares = {line["fact"]: line["share"] for line in lines}
    assert {line["layers"] for line in lines} == {29}
    assert shares["written"] < 0.6  # the largest layer, in float32 with its sum, is a tenth of it
    assert shares["read"] < 0.2
    assert shares["memory"] < 1.3  # the codes are half of it; a copy of the model would be one more


# --- on the server ---


def graph_of(models: Models, cache: str) -> tuple[Graph, Node]:
    """Load, fuse, quantize, sample -> the graph and its Quantize Model."""
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.model("flux").name, weight_dtype="default")
    lora = models.lora("flux").name
    model = graph.add("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=0.5)
    made = graph.add("FQQuantizeModel", model=model, scheme="int8", cache=cache)
    save_latent(graph, sample(graph, made, "flux"), f"cache-{cache}")
    return graph, made


def kept(server: ComfyServer) -> list[Path]:
    """The files of the server's cache."""
    return sorted((server.base / "user" / "fusequant" / "cache").glob("*"))


def test_after_a_restart_of_the_results_a_prompt_takes_the_file(
    server: ComfyServer, models: Models
) -> None:
    before = kept(server)  # of the tests before this one
    graph, made = graph_of(models, "on")
    first = server.run(graph)
    assert first.done, first
    assert "will write" in first.text(made.id)
    files = kept(server)
    (written,) = set(files) - set(before)
    assert written.suffix == ".safetensors"
    with_memory, other = graph_of(models, "off")
    assert "cache" not in server.run(with_memory).text(other.id)
    graph.nodes[made.id]["inputs"]["keep"] = ""  # the same recipe, so that it runs again
    second = server.run(graph)
    assert second.done, second
    assert "from the cache" in second.text(made.id)
    assert kept(server) == files


def test_cached_files_are_in_no_drop_down(server: ComfyServer, models: Models) -> None:
    graph, _ = graph_of(models, "on")
    assert server.run(graph).done
    listed = str(server.object_info("UNETLoader")) + str(server.object_info("FQLoadDiT"))
    assert all(path.name not in listed for path in kept(server))
