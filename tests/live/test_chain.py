"""The whole chain on a server: load, fuse, quantize, limit, sample, decode; as a user wires it."""

from __future__ import annotations

import pytest

from .conftest import Models
from .graphs import Graph, Node, sample, save_image, save_latent
from .server import ComfyServer, Result

SCHEMES = (
    "auto", "8-bit", "4-bit", "none", "fp8", "fp8_e5m2", "fp8_row", "fp8_block128", "int8",
    "int8_convrot", "int8_weight_only", "int4_g128", "mxfp8", "nvfp4",
    "w4a4_convrot", "w4a8", "fp8-sgl",
)  # fmt: skip


def chain(graph: Graph, models: Models, family: str, scheme: str, strength: float) -> Node:
    """Load FP8 DiT -> Fuse LoRA -> Quantize Model -> VRAM Manager."""
    loaded = graph.add("FQLoadDiT", file=models.model(family).name, scheme="as stored")
    fused = graph.add(
        "FQFuseLoRA",
        model=loaded,
        **{
            "count": "1",
            "count.lora_1": models.lora(family).name,
            "count.strength_1": strength,
        },
    )
    quantized = graph.add("FQQuantizeModel", model=fused, scheme=scheme)
    return graph.add("FQVRAMManager", model=quantized, mode="auto", limit_gb=0.0)


def run(server: ComfyServer, graph: Graph) -> Result:
    result = server.run(graph)
    assert result.done, result.failure or result.node_errors
    return result


def test_a_prompt_becomes_a_picture(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    model = chain(graph, models, "flux-clip", "int8_convrot", 0.8)
    clip = graph.add("CLIPLoader", clip_name=models.clip_l().name, type="stable_diffusion")
    text = graph.add("CLIPTextEncode", clip=clip, text="a red apple on a white table")
    sampled = sample(graph, model, "flux", positive=text, negative=text)
    image = save_image(graph, sampled, models.vae().name)
    result = run(server, graph)
    assert len(server.image(result.files(image.id)[0])) > 500


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_choice_of_the_drop_down_samples(
    server: ComfyServer, models: Models, scheme: str
) -> None:
    graph = Graph()
    quantized = chain(graph, models, "flux", scheme, 1.0)
    save_latent(graph, sample(graph, quantized, "flux"))
    result = run(server, graph)
    report = result.text("3")
    assert "quantized" in report or scheme == "none"


@pytest.mark.parametrize("family", ["wan", "qwen"])
def test_other_families_run_the_same_chain(
    server: ComfyServer, models: Models, family: str
) -> None:
    graph = Graph()
    quantized = chain(graph, models, family, "int8", 0.5)
    save_latent(graph, sample(graph, quantized, family, steps=1))
    run(server, graph)


def test_a_second_prompt_runs_nothing_again(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    quantized = chain(graph, models, "flux", "fp8", 0.9)
    save_latent(graph, sample(graph, quantized, "flux"))
    run(server, graph)
    again = run(server, graph)
    assert {"1", "2", "3", "4"} <= set(again.cached)


def test_stock_nodes_around_ours(server: ComfyServer, models: Models) -> None:
    """A stock LoRA before, model merging before, SaveModel-like and compile-free nodes after."""
    graph = Graph()
    first = graph.add("UNETLoader", unet_name=models.model("flux").name, weight_dtype="default")
    patched = graph.add(
        "LoraLoaderModelOnly",
        model=first,
        lora_name=models.lora("flux").name,
        strength_model=0.5,
    )
    merged = graph.add("ModelMergeSimple", model1=patched, model2=first, ratio=0.5)
    quantized = graph.add("FQQuantizeModel", model=merged, scheme="int8")
    shifted = graph.add(
        "ModelSamplingFlux", model=quantized, max_shift=1.15, base_shift=0.5, width=64, height=64
    )
    after = graph.add(
        "LoraLoaderModelOnly",
        model=shifted,
        lora_name=models.lora("flux", "kohya").name,
        strength_model=0.3,
    )
    save_latent(graph, sample(graph, after, "flux"))
    run(server, graph)
