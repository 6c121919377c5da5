"""VRAM Manager, Free Memory and Speed Options on a server: reports, latents, refusals."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from .conftest import Models
from .graphs import Graph, Node, sample, save_latent
from .server import ComfyServer, Result


def latent(server: ComfyServer, result: Result, saved: Node) -> torch.Tensor:
    """The latent that a node has saved."""
    assert result.done, (result.refused, result.node_errors, result.failure)
    return load_file(server.path(result.files(saved.id)[0]))["latent_tensor"]


def loaded(graph: Graph, models: Models) -> Node:
    """The stock loader on the tiny FLUX."""
    return graph.add(
        "UNETLoader", unet_name=models.model("flux").name, weight_dtype="default"
    )  # fmt: skip


def test_the_chain_gives_the_same_latent_and_its_reports(
    server: ComfyServer, models: Models
) -> None:
    graph = Graph()
    model = loaded(graph, models)
    plain = save_latent(graph, sample(graph, model, "flux"), "plain")
    first = graph.add("FQVRAMManager", model=model, mode="limit", limit_gb=4.0)
    manager = graph.add("FQVRAMManager", model=first, mode="auto_offload", buffer_gb=1.0)
    speed = graph.add("FQSpeed", model=manager, attention="auto", tf32="on")
    sampled = sample(graph, speed, "flux")
    freed = graph.add("FQFreeMemory", any=sampled, model=speed)
    ours = save_latent(graph, freed, "managed")
    before = len(server.log())
    result = server.run(graph)
    assert torch.equal(latent(server, result, ours), latent(server, result, plain))
    assert "nothing is limited here" in result.text(first.id)
    assert "ComfyUI decides" in result.text(manager.id)
    assert "TF32: nothing to set" in result.text(speed.id)
    assert "on a CPU pytorch, torch's own, is exact as well and faster" in result.text(speed.id)
    assert "peak measured" in result.text(freed.id) and "predicted" in result.text(freed.id)
    logged = server.log()[before:]
    assert logged.count("VRAM Manager (auto): peak measured") == 1
    assert "VRAM Manager (limit): peak" not in logged


def test_a_cached_manager_measures_the_next_sampling_too(
    server: ComfyServer, models: Models
) -> None:
    texts = []
    for seed in (11, 12):
        graph = Graph()
        manager = graph.add("FQVRAMManager", model=loaded(graph, models), mode="auto")
        sampled = sample(graph, manager, "flux", seed=seed)
        freed = graph.add("FQFreeMemory", any=sampled, model=manager, unload_models=False)
        saved = save_latent(graph, freed)
        before = len(server.log())
        result = server.run(graph)
        assert result.done
        assert server.log()[before:].count("peak measured") == 1
        texts.append((manager.id in result.cached, result.text(freed.id), saved))
    assert [cached for cached, _, _ in texts] == [False, True]


def test_a_stock_lora_after_quantizing_is_told_once(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    quantized = graph.add("FQQuantizeModel", model=loaded(graph, models), scheme="int8")
    late = graph.add(
        "LoraLoaderModelOnly", model=quantized, lora_name=models.lora("flux").name,
        strength_model=1.0,
    )  # fmt: skip
    manager = graph.add("FQVRAMManager", model=late, mode="auto")
    before = len(server.log())
    for seed in (1, 2):
        save_latent(graph, sample(graph, manager, "flux", seed=seed), f"late-{seed}")
    result = server.run(graph)
    assert result.done
    # the sampling's line; the report's is shown on the node
    assert server.log()[before:].count("a LoRA was added after quantizing") == 1
    assert "WARNING: a LoRA was added after quantizing" in result.text(manager.id)


@pytest.mark.parametrize(
    ("node", "inputs", "told"),
    [
        ("FQVRAMManager", {"mode": "limit"}, "mode limit without a number"),
        ("FQSpeed", {"attention": "fp8"}, "fp8 is not offered here"),
        ("FQSpeed", {"attention": "flash9"}, "found flash9"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(
    server: ComfyServer, models: Models, node: str, inputs: dict[str, str], told: str
) -> None:
    graph = Graph()
    refused = graph.add(node, model=loaded(graph, models), **inputs)
    save_latent(graph, sample(graph, refused, "flux"))
    result = server.run(graph)
    assert not result.done
    assert told in str((result.failure, result.node_errors, result.refused))


def test_the_nodes_explain_themselves(server: ComfyServer) -> None:
    for name in ("FQVRAMManager", "FQFreeMemory", "FQSpeed"):
        info = server.object_info(name)[name]
        assert info["description"] and info["category"].startswith("FuseQuant/")
        for inputs in info["input"].values():
            assert all("UNIQUE_ID" in str(spec) or spec[1]["tooltip"] for spec in inputs.values())
        assert len(info["output_tooltips"]) == len(info["output"])
    limit = server.object_info("FQVRAMManager")["FQVRAMManager"]["input"]["optional"]["limit_gb"]
    assert "may evict other models" in limit[1]["tooltip"]
