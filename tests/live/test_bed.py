"""The bed itself: the pack loads in a real server, stock graphs run on the tiny models."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .conftest import Models
from .graphs import Graph, sample, save_image, save_latent
from .server import ComfyServer, Result


def sampled(
    server: ComfyServer,
    models: Models,
    family: str,
    lora: Path | None = None,
    strength: float = 1.0,
) -> torch.Tensor:
    """The latent that stock nodes make of a family's tiny model, with a LoRA or without."""
    graph = Graph()
    name = models.model(family).name
    model = graph.add("UNETLoader", unet_name=name, weight_dtype="default")
    if lora is not None:
        model = graph.add(
            "LoraLoaderModelOnly", model=model, lora_name=lora.name, strength_model=strength
        )
    saved = save_latent(graph, sample(graph, model, family), f"{family}-bed")
    result = server.run(graph)
    assert result.done, result
    return load_file(server.path(result.files(saved.id)[0]))["latent_tensor"].float()


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Relative Frobenius distance."""
    return float((first - second).norm() / second.norm())


def test_the_pack_loads_without_a_complaint(server: ComfyServer) -> None:
    log = server.start_log
    assert "custom_nodes/fusequant" in log.replace("\\", "/")
    for complaint in ("IMPORT FAILED", "Cannot import", "comfy_entrypoint", "Traceback"):
        assert complaint not in log
    assert "is left out" not in log


def test_the_pack_adds_its_own_nodes_only(server: ComfyServer) -> None:
    ours = [
        name
        for name, info in server.object_info().items()
        if info["python_module"].startswith("custom_nodes.fusequant")
    ]
    assert all(name.startswith("FQ") for name in ours)


@pytest.mark.parametrize("family", ["flux", "wan", "qwen"])
def test_a_stock_graph_runs_on_the_tiny_model(
    server: ComfyServer, models: Models, family: str
) -> None:
    latent = sampled(server, models, family)
    assert latent.isfinite().all()
    assert 0.1 < float(latent.std()) < 10


def test_a_prompt_becomes_an_image_by_stock_nodes_alone(
    server: ComfyServer, models: Models
) -> None:
    graph, name = Graph(), models.model("flux-clip").name
    clip = graph.add("CLIPLoader", clip_name=models.clip_l().name, type="stable_diffusion")
    prompt = graph.add("CLIPTextEncode", clip=clip, text="a red fox in the snow")
    model = graph.add("UNETLoader", unet_name=name, weight_dtype="default")
    latent = sample(graph, model, "flux", positive=prompt, negative=prompt)
    saved = save_image(graph, latent, models.vae().name)
    result = server.run(graph)
    assert result.done, result
    assert server.image(result.files(saved.id)[0]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("family", "spelling"),
    [
        ("flux", "native"), ("flux", "diffusers"), ("flux", "kohya"),
        ("wan", "native"), ("wan", "kohya"),
    ],
)  # fmt: skip
def test_a_stock_lora_changes_the_result(
    server: ComfyServer, models: Models, family: str, spelling: str
) -> None:
    plain = sampled(server, models, family)
    changed = sampled(server, models, family, models.lora(family, spelling))
    assert 0.02 < difference(changed, plain) < 2


def test_the_spellings_of_a_lora_mean_the_same(server: ComfyServer, models: Models) -> None:
    native, diffusers, kohya = (
        sampled(server, models, "flux", models.lora("flux", spelling))
        for spelling in ("native", "diffusers", "kohya")
    )
    assert difference(diffusers, native) < 1e-4
    assert difference(kohya, native) < 1e-4


def test_a_second_run_of_a_graph_is_cached(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.model("flux").name, weight_dtype="default")
    save_latent(graph, sample(graph, model, "flux", seed=77))
    server.run(graph)
    assert server.run(graph).cached >= {model.id}


def test_a_bad_choice_is_refused_with_the_name_of_its_node(server: ComfyServer) -> None:
    graph = Graph()
    loader = graph.add("UNETLoader", unet_name="absent.safetensors", weight_dtype="default")
    save_latent(graph, sample(graph, loader, "flux"))
    result = server.run(graph)
    assert result.refused is not None
    assert loader.id in result.node_errors


def test_a_node_that_raises_is_named_with_its_message(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.model("wan").name, weight_dtype="default")
    latent = sample(graph, model, "flux")  # conditioning of the wrong width
    save_latent(graph, latent)
    result = server.run(graph)
    assert result.failure is not None
    assert result.failure.node == latent.id
    assert result.failure.message


def test_a_running_graph_can_be_interrupted(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    model = graph.add("UNETLoader", unet_name=models.model("flux").name, weight_dtype="default")
    save_latent(graph, sample(graph, model, "flux", steps=2000, seed=5))
    posted = server.post(graph)
    assert not isinstance(posted, Result)
    limit = time.monotonic() + 30
    while not server.get("/queue")["queue_running"] and time.monotonic() < limit:
        time.sleep(0.02)
    server.interrupt()
    assert server.wait(posted, 60).interrupted
