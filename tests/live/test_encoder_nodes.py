"""Quantized T5/CLIP Loader and Quantized CLIP Vision Loader in a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from . import tiny
from .conftest import Models
from .graphs import Graph, Node, sample, save_latent
from .server import ComfyServer


def prompted(
    server: ComfyServer, models: Models, clip_name: str, scheme: str | None, **more: str
) -> tuple[torch.Tensor, str]:
    """(latent, what the loader showed) with a CLIP-L: ours with a scheme, the stock one without."""
    graph = Graph()
    if scheme is None:
        clip = graph.add("CLIPLoader", clip_name=clip_name, type="stable_diffusion")
    else:
        named = {"files.file_1": clip_name, "files.type": "stable_diffusion"}
        clip = graph.add("FQLoadTextEncoder", files="1", scheme=scheme, **named, **more)
    text = graph.add("CLIPTextEncode", clip=clip, text="a red fox in the snow")
    name = models.model("flux-clip").name
    model = graph.add("UNETLoader", unet_name=name, weight_dtype="default")
    saved = save_latent(graph, sample(graph, model, "flux", positive=text, negative=text))
    result = server.run(graph)
    assert result.done, result
    latent = load_file(server.path(result.files(saved.id)[0]))["latent_tensor"].float()
    return latent, result.text(clip.id)


def test_a_clip_l_is_quantized_while_it_is_loaded(server: ComfyServer, models: Models) -> None:
    name = models.clip_l().name
    wanted, _ = prompted(server, models, name, None)
    stored, told = prompted(server, models, name, "as stored", device="cpu")
    assert torch.equal(stored, wanted)
    assert "ComfyUI's own loader" in told
    found, told = prompted(server, models, name, "8-bit")
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 0.2
    assert "72 x int8_weight_only" in told and "less than in BF16" in told


def test_a_quantized_clip_goes_through_quantize_model(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    named = {"files.file_1": models.clip_l().name, "files.type": "stable_diffusion"}
    clip = graph.add("FQLoadTextEncoder", files="1", scheme="4-bit", **named)
    again = graph.add("FQQuantizeModel", model=clip, scheme="fp8")
    text = graph.add("CLIPTextEncode", clip=again, text="a red fox")
    graph.add("PreviewAny", source=text)
    result = server.run(graph)
    assert result.done, result
    assert "rebuilt from the source: it was int4_g128 before" in result.text(again.id)


def test_the_types_are_those_of_comfyuis_loaders(server: ComfyServer) -> None:
    options = server.object_info("FQLoadTextEncoder")["FQLoadTextEncoder"]["input"]["required"]
    ours = {}
    for option in options["files"][1]["options"]:
        required = option["inputs"]["required"]
        ours[option["key"]] = required["type"][1]["options"] if "type" in required else None
    stock = {}
    for count, loader in (("1", "CLIPLoader"), ("2", "DualCLIPLoader")):
        stock[count] = server.object_info(loader)[loader]["input"]["required"]["type"][0]
    assert ours == {**stock, "3": None}


@pytest.mark.parametrize(
    ("files", "scheme", "said"),
    [("4", "8-bit", "choose how many files"), ("1", "fp9", "unknown-scheme")],
)
def test_a_wrong_choice_is_refused_before_anything_runs(
    server: ComfyServer, models: Models, files: str, scheme: str, said: str
) -> None:
    graph = Graph()
    named = {"files.file_1": models.clip_l().name, "files.type": "stable_diffusion"}
    clip = graph.add("FQLoadTextEncoder", files=files, scheme=scheme, **named)
    _shown(graph, clip)
    result = server.run(graph)
    assert not result.done
    assert said in str(result)


def test_the_wrong_kind_of_file_is_told_in_one_sentence(
    server: ComfyServer, models: Models
) -> None:
    path = server.models("clip_vision") / "no-vision.safetensors"
    if not path.exists():
        tiny.clip_l(path, width=256, layers=2)
    graph = Graph()
    vision = graph.add("FQLoadClipVision", file=path.name, scheme="as stored")
    image = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0)
    seen = graph.add("CLIPVisionEncode", clip_vision=vision, image=image, crop="center")
    graph.add("PreviewAny", source=seen)
    result = server.run(graph)
    assert result.failure is not None and result.failure.node == vision.id
    assert result.failure.message.startswith("not-a-vision-encoder: found")
    assert Path(path.name).stem in result.failure.message


def _shown(graph: Graph, clip: Node) -> None:
    text = graph.add("CLIPTextEncode", clip=clip, text="a red fox")
    graph.add("PreviewAny", source=text)
