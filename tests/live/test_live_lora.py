"""Live LoRA inside ComfyUI: a branch on the quantized weight, and nothing else changes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from . import tiny
from .comfy import Comfy
from .conftest import Models
from .graphs import Graph, Node, sample, save_latent
from .inprocess import run_inside
from .lora_files import lora_files
from .server import ComfyServer

BLOCKS = ("mxfp8", "nvfp4", "w4a4_convrot", "w4a8")
CORE = ("fp8", "fp8_e5m2", "int8", "int8_convrot", "int8_weight_only", *BLOCKS)
OWN = ("fp8_row", "fp8_block128", "int4_g128")
SCHEMES = (*CORE, *OWN)
FOUR_BITS = ("int4_g128", "nvfp4", "w4a4_convrot", "w4a8")
# these leave modulation as it is: there the LoRA is a patch of the host, which saving bakes in
LEAVES_MODULATION = ("nvfp4", "w4a4_convrot")
LAYERS, MODULATIONS = 26, 6
# of one layer in float32: the branch itself is exact, what is left is the order of the sums
LAYER_BOUND = 1e-6

Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    files = lora_files(tmp_path_factory.mktemp("live-lora"))
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "host_live_lora", 400, **files):
        found[line.pop("fact")].append(line)
    return found


def one(facts: Facts, fact: str, **of: Any) -> dict[str, Any]:
    """The single line of a question."""
    lines = [line for line in facts[fact] if of.items() <= line.items()]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_layer_is_the_quantized_layer_plus_the_lora(facts: Facts, scheme: str) -> None:
    line = one(facts, "scheme", scheme=scheme)
    assert line["layers"] == LAYERS - (MODULATIONS if scheme in LEAVES_MODULATION else 0)
    assert line["worst"] < LAYER_BOUND


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_model_is_near_the_one_with_the_lora_and_no_quantization(
    facts: Facts, scheme: str
) -> None:
    line = one(facts, "scheme", scheme=scheme)
    assert line["change"] > 0.1
    assert line["fused"] < 1.5 * line["quantization"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_clone_a_partial_load_and_a_rebuild_are_equal(facts: Facts, scheme: str) -> None:
    line = one(facts, "scheme", scheme=scheme)
    assert line["clone"] and line["partly"] and line["rebuilt"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_model_that_came_in_is_not_changed(facts: Facts, scheme: str) -> None:
    assert one(facts, "scheme", scheme=scheme)["upstream"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_stock_lora_on_top_is_added_and_the_branch_stays(facts: Facts, scheme: str) -> None:
    line = one(facts, "scheme", scheme=scheme)
    assert all(name.startswith("FuseQuantLive") for name in line["layouts"])
    assert line["cancelled"] < (0.2 if scheme in FOUR_BITS else 0.1)


SAVED = [s for s in CORE if s not in ("int8_weight_only", *LEAVES_MODULATION)]


@pytest.mark.parametrize("scheme", SAVED)
def test_what_stock_save_writes_stock_loaders_still_open(facts: Facts, scheme: str) -> None:
    bound = 0.005 if scheme in ("int8_convrot", "w4a8") else 1e-6  # a rotated activation's last bit
    assert one(facts, "scheme", scheme=scheme)["saved"] < bound


def test_the_branch_counts_as_memory(facts: Facts) -> None:
    assert one(facts, "scheme", scheme="int8")["size"] > 0.2 * 2**20


def test_two_loras_add_up_in_one_node_or_in_two(facts: Facts) -> None:
    line = one(facts, "stacked")
    assert line["worst"] < LAYER_BOUND
    assert line["apart"] and line["rebuilt"] and line["classes"] == 1


@pytest.mark.parametrize("name", ["diffusers", "kohya"])
def test_every_spelling_means_the_same_also_in_parts_of_a_layer(facts: Facts, name: str) -> None:
    line = one(facts, "spelling", name=name)
    assert line["worst"] < LAYER_BOUND
    assert line["output"] < 5e-3


@pytest.mark.parametrize("rslora", [False, True])
def test_alpha_is_over_the_rank_or_its_root(facts: Facts, rslora: bool) -> None:
    assert one(facts, "alpha", rslora=rslora)["worst"] < LAYER_BOUND


def test_strength_zero_changes_nothing(facts: Facts) -> None:
    line = one(facts, "zero")
    assert line["equal"] and line["layers"] == 0
    assert "nothing added" in line["text"]


def test_another_lora_that_is_loaded_just_now_is_not_taken_in(facts: Facts) -> None:
    line = one(facts, "meanwhile")
    assert line["patched"] and line["equal"]


def test_a_change_of_strength_quantizes_nothing_and_keeps_the_codes(facts: Facts) -> None:
    line = one(facts, "speed")
    assert line["seconds"] < 0.1
    assert line["pointers"] and line["quantized"] == 0


@pytest.mark.parametrize("scheme", ["fp8", "fp8_e5m2"])
def test_the_branch_is_not_lost_where_the_input_is_quantized(facts: Facts, scheme: str) -> None:
    line = one(facts, "input quantized", scheme=scheme)
    assert line["quantized"] and line["worst"] < LAYER_BOUND
    assert line["formats"][0].startswith("fusequant_live_")


@pytest.mark.parametrize("scheme", ["fp8", "int8", *OWN])
def test_the_branch_travels_with_the_codes_when_they_are_offloaded(
    facts: Facts, scheme: str
) -> None:
    line = one(facts, "gathered", scheme=scheme)
    assert line["equal"] and line["kept"]
    assert line["requantized"] < (0.2 if scheme in FOUR_BITS else 0.1)
    assert line["half"] < 0.03


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
def test_a_quantized_file_of_the_stock_loader_takes_it_too(facts: Facts, scheme: str) -> None:
    line = one(facts, "stock file", scheme=scheme)
    assert line["layers"] == LAYERS and line["worst"] < LAYER_BOUND
    assert line["saved"] < 1e-6 and line["rebuilt"]
    assert line["quantized"] < 1e-6


def test_a_model_that_no_loader_can_make_again_takes_it_too(facts: Facts) -> None:
    line = one(facts, "no factory")
    assert line["layers"] == LAYERS and line["worst"] < LAYER_BOUND
    assert line["bake"] == "no-pristine-source"


def test_int8_down_projections_have_it_where_the_bypass_loader_is_lost(facts: Facts) -> None:
    line = one(facts, "int8 mlp")
    assert line["bypass"] == 0.0
    assert line["change"] > 0.1 and line["live"] < LAYER_BOUND


@pytest.mark.parametrize("scheme", ["int8", "fp8", *OWN])
def test_a_compiled_block_is_equal_and_a_new_strength_compiles_nothing(
    facts: Facts, scheme: str
) -> None:
    line = one(facts, "compiled", scheme=scheme)
    assert line["equal"] and line["change"] > 0.1
    assert line["again"] and line["graphs"] == 0


@pytest.mark.parametrize("name", ["dora", "loha"])
def test_other_adapters_are_refused_and_fuse_lora_is_named(facts: Facts, name: str) -> None:
    line = one(facts, "refused", name=name)
    assert line["kind"] == "live-lora-kind" and "use Fuse LoRA" in line["text"]


def test_a_broken_or_foreign_lora_is_refused(facts: Facts) -> None:
    assert one(facts, "refused", name="nan")["kind"] == "lora-not-finite"
    assert one(facts, "refused", name="wan_lora")["kind"] == "lora-matches-nothing"


def test_layers_without_codes_get_ordinary_patches_and_the_report_says_so(facts: Facts) -> None:
    line = one(facts, "unquantized")
    assert line["equal"] and line["patches"] == LAYERS
    assert "put Live LoRA after Quantize Model" in line["text"]
    line = one(facts, "mixed")
    assert (line["layers"], line["patches"]) == (16, 10)
    assert "ordinary patches on 10" in line["text"] and line["fused"] < 0.05


def test_quantizing_after_it_fuses_it_from_the_source(facts: Facts) -> None:
    line = one(facts, "quantized again")
    assert line["bits"] and line["live"] == 0
    assert line["patches"] == pytest.approx([0.6, 0.3]) and line["none"] == {}


def test_fuse_lora_after_it_fuses_both(facts: Facts) -> None:
    line = one(facts, "fused after")
    assert line["error"] < 1e-6 and line["live"] == 0
    assert "the live LoRAs too" in line["text"]


def test_no_function_or_global_of_the_host_is_replaced(facts: Facts) -> None:
    assert one(facts, "host untouched")["changed"] == []


def live(graph: Graph, models: Models, model: Node, strength: float) -> Node:
    """A Live LoRA node with one LoRA."""
    lora = {"count.lora_1": models.lora("flux").name, "count.strength_1": strength}
    return graph.add("FQLiveLoRA", model=model, count="1", **lora)


def test_live_lora_runs_in_a_graph_and_only_it_runs_again_for_a_new_strength(
    server: ComfyServer, models: Models
) -> None:
    latents = {}
    for strength in (0.0, 1.0, 0.4):
        graph = Graph()
        model = graph.add("FQLoadDiT", file=models.model("flux").name, scheme="as stored")
        quantized = graph.add("FQQuantizeModel", model=model, scheme="int8")
        made = live(graph, models, quantized, strength)
        saved = save_latent(graph, sample(graph, made, "flux"), f"live-{strength}")
        result = server.run(graph)
        assert result.done, result
        latent = load_file(server.path(result.files(saved.id)[0]))["latent_tensor"].float()
        assert latent.isfinite().all()
        latents[strength] = latent
        if strength:
            assert "live on 26 quantized layers" in result.text(made.id)
            assert quantized.id in result.cached
    changes = [float((latents[s] - latents[0.0]).norm() / latents[0.0].norm()) for s in (0.4, 1.0)]
    assert 0.02 < changes[0] < changes[1] < 2
    assert not torch.equal(latents[0.4], latents[1.0])


def test_another_file_under_the_same_name_is_read_again(
    server: ComfyServer, models: Models
) -> None:
    model = models.model("flux")
    path = server.models("loras") / "replaced.safetensors"
    seen = []
    for seed in (1, 1, 2):
        if len(seen) != 1:
            path.unlink(missing_ok=True)
            tiny.lora(path, model, seed=seed)
        graph = Graph()
        loaded = graph.add("FQLoadDiT", file=model.name, scheme="int8")
        lora = {"count.lora_1": path.name}
        made = graph.add("FQLiveLoRA", model=loaded, count="1", **lora)
        save_latent(graph, sample(graph, made, "flux", seed=9), "replaced")
        result = server.run(graph)
        assert result.done, result
        seen.append(made.id in result.cached)
    assert seen == [False, True, False]
