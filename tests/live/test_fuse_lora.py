"""Fuse LoRA inside ComfyUI: fused in full precision, once, whatever the order of the nodes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from .comfy import Comfy
from .conftest import Models
from .graphs import Graph, Node, sample, save_latent
from .inprocess import run_inside
from .lora_files import lora_files
from .server import ComfyServer, Result

SCHEMES = ("fp8", "int8", "int8_convrot")
LAYERS = 26

Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    files = lora_files(tmp_path_factory.mktemp("fuse-lora"))
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "host_fuse_lora", 400, **files):
        found[line.pop("fact")].append(line)
    return found


def one(facts: Facts, fact: str, **of: Any) -> dict[str, Any]:
    """The single line of a question."""
    lines = [line for line in facts[fact] if of.items() <= line.items()]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_fused_before_quantizing_is_nearer_than_added_after_it(facts: Facts, scheme: str) -> None:
    line = one(facts, "order", scheme=scheme)
    assert line["fused"] < 0.75 * line["core_after"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_weight_is_quantized_once(facts: Facts, scheme: str) -> None:
    line = one(facts, "order", scheme=scheme)
    assert (line["layers"], line["times"], line["live"]) == (LAYERS, [1], 0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_after_quantize_or_around_it_gives_the_bits_of_before(facts: Facts, scheme: str) -> None:
    line = one(facts, "order", scheme=scheme)
    assert line["after"] and line["between"] and line["rebuilt"]
    assert "placed after quantizing" in line["told"]
    assert f"rebuilt from the source: it was {scheme} before" in line["told"]


def test_layers_that_stay_unquantized_have_the_lora_too(facts: Facts) -> None:
    line = one(facts, "kept layers")
    assert line["live"] and line["output"] and line["count"] == 10


@pytest.mark.parametrize("name", ["lora", "diffusers", "kohya", "alpha", "dora"])
@pytest.mark.parametrize("strength", [1.0, -0.6])
def test_a_lora_that_comfyui_reads_means_what_it_means_there(
    facts: Facts, name: str, strength: float
) -> None:
    line = one(facts, "as core", name=name, strength=strength)
    assert line["keys"] and line["worst"] < 1e-6


def test_a_spelling_that_comfyui_does_not_know_is_read(facts: Facts) -> None:
    line = one(facts, "only ours")
    assert line["core"] == 0 and line["keys"] == LAYERS
    assert line["same"] == 0.0


@pytest.mark.parametrize("name", ["magnitude", "conv"])
def test_adapters_that_comfyui_reads_otherwise_have_the_numbers_of_the_file(
    facts: Facts, name: str
) -> None:
    line = one(facts, "kind", name=name)
    assert line["error"] < 1e-6 < line["change"]
    assert line.get("partly", 0.0) < 1e-5


def test_strength_zero_adds_nothing(facts: Facts) -> None:
    line = one(facts, "zero")
    assert line["patches"] == 0 and "nothing added" in line["text"]


def test_rank_stabilised_alpha_is_over_the_root_of_the_rank(facts: Facts) -> None:
    assert one(facts, "rslora")["ratio"] == pytest.approx(2.0, rel=1e-5)  # rank 4


def test_what_found_no_layer_is_named(facts: Facts) -> None:
    line = one(facts, "unmatched")
    assert "26 modules matched, 2 not" in line["text"]
    assert "diffusion_model.double_blocks.99.img_attn.qkv" in line["text"]
    assert "text encoder" in line["text"]
    assert line["uses"] == [["extra.safetensors", 1.0, 26]]


def test_baking_rounds_once_and_quantizing_after_it_starts_from_the_source(facts: Facts) -> None:
    line = one(facts, "baked")
    assert line["patches"] == 0 and line["dtype"] == "torch.bfloat16" and line["once"]
    assert 0 < line["output"] < 0.01
    assert line["rebuilt"] and line["quantized"] and line["again"]


def test_a_source_that_is_fp8_already_is_named_and_its_lora_not_lost(facts: Facts) -> None:
    line = one(facts, "stored fp8")
    assert "26 of the layers are stored as fp8" in line["text"] and "rounds twice" in line["text"]
    assert "rounded twice" in line["baked"] and line["left"] == 0
    assert line["delta"] > 0.2 and line["error"] < 0.05 and line["quantized"] < 0.05
    assert line["untouched"]


def test_a_broken_or_foreign_file_is_refused(facts: Facts) -> None:
    assert one(facts, "refused", name="nan")["kind"] == "lora-not-finite"
    assert one(facts, "refused", name="wan_lora")["kind"] == "lora-matches-nothing"
    assert one(facts, "refused", name="flux")["kind"] == "not-a-lora"


def test_what_comes_in_is_not_changed(facts: Facts) -> None:
    assert one(facts, "upstream") == {"output": True, "bits": True}
    assert one(facts, "host untouched")["changed"] == []


def fuse(graph: Graph, models: Models, model: Node, *strengths: float | None, **more: Any) -> Node:
    """A Fuse LoRA node with LoRAs of these strengths; None leaves the strength out."""
    loras: dict[str, Any] = {}
    for n, strength in enumerate(strengths, 1):
        loras[f"count.lora_{n}"] = models.lora("flux", ("native", "kohya")[n - 1]).name
        loras[f"count.strength_{n}"] = strength
    return graph.add("FQFuseLoRA", model=model, count=str(len(strengths)), **loras, **more)


def latent(server: ComfyServer, result: Result, saved: Node) -> torch.Tensor:
    """What a SaveLatent node wrote."""
    assert result.done, result
    return load_file(server.path(result.files(saved.id)[0]))["latent_tensor"].float()


def test_both_orders_in_a_graph_give_the_same_latent(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    name = models.model("flux").name
    loaded = graph.add("FQLoadDiT", file=name, scheme="as stored")
    fused = fuse(graph, models, loaded, 0.8, -0.3)
    before = graph.add("FQQuantizeModel", model=fused, scheme="int8")
    after = fuse(
        graph, models, graph.add("FQQuantizeModel", model=loaded, scheme="int8"), 0.8, -0.3
    )
    baked = fuse(graph, models, loaded, 0.8, -0.3, bake_now=True)
    saved = [
        save_latent(graph, sample(graph, model, "flux"), f"fuse-{index}")
        for index, model in enumerate((before, after, fused, baked, loaded))
    ]
    result = server.run(graph)
    first, second, plain, own, without = (latent(server, result, node) for node in saved)
    assert torch.equal(first, second)
    assert float((first - plain).norm() / plain.norm()) < 0.1
    assert float((own - plain).norm() / plain.norm()) < 0.02
    assert float((first - without).norm() / without.norm()) > 0.1
    assert "26 modules matched" in result.text(fused.id)
    assert "placed after quantizing" in result.text(after.id)


def test_a_strength_left_out_is_one(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    loaded = graph.add("FQLoadDiT", file=models.model("flux").name, scheme="as stored")
    made = fuse(graph, models, loaded, None)
    save_latent(graph, sample(graph, made, "flux"), "one")
    result = server.run(graph)
    assert result.done, result
    assert "at 1: 26 modules matched" in result.text(made.id)


@pytest.mark.parametrize("count", ["11", "none"])
def test_a_wrong_number_of_loras_is_refused_by_name(
    server: ComfyServer, models: Models, count: str
) -> None:
    graph = Graph()
    loaded = graph.add("FQLoadDiT", file=models.model("flux").name, scheme="as stored")
    made = graph.add("FQFuseLoRA", model=loaded, count=count)
    save_latent(graph, sample(graph, made, "flux"), "never")
    result = server.run(graph)
    assert result.failure is not None and result.failure.node == made.id
    assert result.failure.message.startswith("lora-count: found")


def test_a_refusal_reaches_the_user_in_one_sentence(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    loaded = graph.add("FQLoadDiT", file=models.model("flux").name, scheme="as stored")
    lora = {"count.lora_1": models.lora("wan").name}
    made = graph.add("FQFuseLoRA", model=loaded, count="1", **lora)
    save_latent(graph, sample(graph, made, "flux"), "never")
    result = server.run(graph)
    assert result.failure is not None and result.failure.node == made.id
    assert result.failure.message.startswith("lora-matches-nothing: found")
