"""Save Quantized Model: stock Load Diffusion Model opens the file with the same numbers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from . import tiny
from .comfy import Comfy
from .conftest import Models
from .graphs import Graph, sample, save_latent
from .inprocess import run_inside
from .server import ComfyServer

BLOCKS = ("mxfp8", "nvfp4", "w4a4_convrot", "w4a8")
CORE = ("fp8", "fp8_e5m2", "int8", "int8_convrot", *BLOCKS)
OWN = ("fp8_row", "int4_g128")

Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("save")
    model = tiny.flux(folder / "flux.safetensors")
    lora = tiny.lora(folder / "lora.safetensors", model)
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "host_save", 300, model=model, lora=lora, folder=folder / "out"):
        found[line.pop("fact")].append(line)
    return found


def one(facts: Facts, fact: str, **of: str) -> dict[str, Any]:
    """The single line of a question."""
    lines = [line for line in facts[fact] if of.items() <= line.items()]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("scheme", (*CORE, *OWN))
def test_a_saved_model_opens_with_the_same_output(facts: Facts, scheme: str) -> None:
    line = one(facts, "scheme", scheme=scheme)
    assert line["output"] == 0
    assert line["recipe"]["scheme"] == scheme and line["recipe"]["source"]
    assert "F8_E8M0" not in line["dtypes"]


def test_the_report_says_who_opens_the_file(facts: Facts) -> None:
    assert "opens in Load Diffusion Model" in one(facts, "scheme", scheme="int8")["text"]
    assert "Load FP8 DiT opens this file" in one(facts, "scheme", scheme="fp8_row")["text"]
    assert "as it is meant" in one(facts, "scheme", scheme="int8_weight_only")["text"]


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_a_lora_on_a_quantized_model_is_fused_before_its_codes(facts: Facts, scheme: str) -> None:
    line = one(facts, "lora", scheme=scheme)
    assert line["late"]
    assert line["live"] < 1e-3
    assert "fused into the source, then quantized again" in line["text"]


def test_a_lora_on_a_quantized_file_is_not_lost(facts: Facts) -> None:
    line = one(facts, "lora on a stored file")
    assert line["error"] < line["base"] / 4


def test_a_lora_on_an_unquantized_model_is_in_the_file(facts: Facts) -> None:
    line = one(facts, "unquantized")
    assert line["error"] < 1e-6
    assert "none is quantized" in line["text"]


def test_the_lora_of_another_branch_is_not_in_the_file(facts: Facts) -> None:
    assert one(facts, "while another LoRA is loaded")["same"]


def test_a_name_outside_the_output_folder_is_refused(facts: Facts) -> None:
    assert {line["kind"] for line in facts["name"]} == {"output-name"}


def test_an_interrupt_leaves_nothing(facts: Facts) -> None:
    line = one(facts, "interrupt")
    assert line == {"raised": "InterruptProcessingException", "nothing_left": True}


def test_what_comes_in_is_not_changed(facts: Facts) -> None:
    assert one(facts, "upstream")["same"]


def latent_of(server: ComfyServer, graph: Graph, node: str) -> torch.Tensor:
    """Run a graph -> the latent that one of its nodes saved."""
    result = server.run(graph)
    assert result.done, result
    return load_file(server.path(result.files(node)[0]))["latent_tensor"]


@pytest.mark.parametrize("scheme", ["fp8", "int8_convrot", *BLOCKS])
def test_a_file_saved_by_the_node_gives_the_same_picture_in_a_stock_graph(
    server: ComfyServer, models: Models, scheme: str
) -> None:
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.model("flux").name, weight_dtype="default")
    made = graph.add("FQQuantizeModel", model=model, scheme=scheme, backend="kitchen")
    saved = graph.add("FQSaveModel", model=made, filename_prefix=f"diffusion_models/s-{scheme}")
    first = save_latent(graph, sample(graph, made, "flux"), "save-first")
    wanted = latent_of(server, graph, first.id)
    name = f"s-{scheme}_00001_.safetensors"
    assert (server.base / "output" / "diffusion_models" / name).is_file()
    assert name in str(server.object_info("UNETLoader"))
    assert saved.id
    stock = Graph()
    opened = stock.add("UNETLoader", unet_name=name, weight_dtype="default")
    second = save_latent(stock, sample(stock, opened, "flux"), "save-second")
    assert torch.equal(latent_of(server, stock, second.id), wanted)


def test_a_refused_name_reaches_the_user_as_one_sentence(
    server: ComfyServer, models: Models
) -> None:
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.model("flux").name, weight_dtype="default")
    graph.add("FQSaveModel", model=model, filename_prefix="../outside")
    failure = server.run(graph).failure
    assert failure is not None
    assert failure.message.startswith("output-name: found '../outside'; expected a file name")
