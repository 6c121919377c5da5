"""Load FP8 DiT and Quantize Model in a real server: they run in a graph and say what they did."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from .conftest import Models
from .graphs import Graph, Node, sample, save_latent
from .server import ComfyServer, Result


def latent(server: ComfyServer, result: Result, saved: Node) -> torch.Tensor:
    """What a SaveLatent node wrote."""
    assert result.done, result
    return load_file(server.path(result.files(saved.id)[0]))["latent_tensor"].float()


def stock(graph: Graph, models: Models, family: str = "flux") -> Node:
    """ComfyUI's own loader of a tiny model."""
    return graph.add("UNETLoader", unet_name=models.model(family).name, weight_dtype="default")


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_a_model_is_loaded_fused_and_quantized_in_a_graph(
    server: ComfyServer, models: Models, family: str
) -> None:
    graph = Graph()
    loaded = graph.add("FQLoadDiT", file=models.model(family).name, scheme="as stored")
    patched = graph.add(
        "LoraLoaderModelOnly", model=loaded, lora_name=models.lora(family).name, strength_model=1.0
    )
    quantized = graph.add("FQQuantizeModel", model=patched, scheme="auto")
    wanted = save_latent(graph, sample(graph, patched, family), f"{family}-plain")
    found = save_latent(graph, sample(graph, quantized, family), f"{family}-quantized")
    result = server.run(graph)
    first, second = latent(server, result, wanted), latent(server, result, found)
    assert 0 < float((second - first).norm() / first.norm()) < 0.2
    told = result.text(quantized.id)
    assert "x int8" in told and "LoRA fused before quantizing" in told
    assert "less than in" in told


def test_quantizing_while_loading_gives_the_latent_of_quantize_model(
    server: ComfyServer, models: Models
) -> None:
    graph = Graph()
    on_load = graph.add("FQLoadDiT", file=models.model("flux").name, scheme="fp8_row")
    after = graph.add("FQQuantizeModel", model=stock(graph, models), scheme="fp8_row")
    saved = [
        save_latent(graph, sample(graph, model, "flux"), f"row-{index}")
        for index, model in enumerate((on_load, after))
    ]
    result = server.run(graph)
    assert torch.equal(*(latent(server, result, node) for node in saved))


def test_a_wrong_scheme_is_refused_before_anything_runs(
    server: ComfyServer, models: Models
) -> None:
    graph = Graph()
    made = graph.add("FQQuantizeModel", model=stock(graph, models), scheme="fp9")
    save_latent(graph, sample(graph, made, "flux"), "never")
    result = server.run(graph)
    assert not result.done
    assert "unknown-scheme" in str(result)


def test_a_latent_is_no_model(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    noise = graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    made = graph.add("FQQuantizeModel", model=noise, scheme="auto")
    save_latent(graph, sample(graph, made, "flux"), "never")
    result = server.run(graph)
    assert not result.done
    assert "MODEL or CLIP" in str(result)


def test_a_clip_is_quantized(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    clip = graph.add("CLIPLoader", clip_name=models.clip_l().name, type="stable_diffusion")
    quantized = graph.add("FQQuantizeModel", model=clip, scheme="8-bit")
    text = graph.add("CLIPTextEncode", clip=quantized, text="a cat")
    empty = graph.add("ConditioningZeroOut", conditioning=text)
    shown = graph.add("PreviewAny", source=empty)
    result = server.run(graph)
    assert result.done, (result, shown)
    assert "CLIP" in result.text(quantized.id) and "x int8_weight_only" in result.text(quantized.id)
