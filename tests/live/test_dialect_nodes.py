"""Options of the nodes on files of other tools: rotated rows, files for LightX2V."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusequant.cli.main import main
from fusequant.engine.lightx2v import INDEX

from .conftest import Models
from .graphs import Graph, Node, sample, save_latent
from .server import ComfyServer, Result


def latent(server: ComfyServer, result: Result, saved: Node) -> torch.Tensor:
    """What a SaveLatent node wrote."""
    assert result.done, result
    return load_file(server.path(result.files(saved.id)[0]))["latent_tensor"].float()


@pytest.fixture(scope="module")
def rotated(server: ComfyServer, models: Models) -> tuple[str, str]:
    """A FLUX in int8_convrot, and the same as INT8-Fast saves it with QuaRot on: no word of it."""
    folder = server.models("diffusion_models")
    marked, saved = "flux-convrot.safetensors", "flux-quarot.safetensors"
    words = ["convert", models.model("flux"), "--scheme", "int8_convrot", "--out", folder / marked]
    assert main([str(word) for word in words]) == 0
    tensors = load_file(folder / marked)
    kept = {key: x for key, x in tensors.items() if not key.endswith("comfy_quant")}
    save_file({f"model.diffusion_model.{key}": x for key, x in kept.items()}, folder / saved)
    return marked, saved


def test_rotated_rows_are_read_on_the_user_s_word(
    server: ComfyServer, rotated: tuple[str, str]
) -> None:
    marked, saved = rotated
    graph = Graph()
    loads = [
        graph.add("FQLoadDiT", file=marked, scheme="as stored"),
        graph.add("FQLoadDiT", file=saved, scheme="as stored", rotated="256"),
        graph.add("FQLoadDiT", file=saved, scheme="as stored"),
    ]
    nodes = [
        save_latent(graph, sample(graph, load, "flux"), f"rotated-{at}")
        for at, load in enumerate(loads)
    ]
    result = server.run(graph)
    right, told, wrong = (latent(server, result, node) for node in nodes)
    assert torch.equal(told, right)
    assert float((wrong - right).norm() / right.norm()) > 0.1
    assert "rotated in groups of 256" in result.text(loads[1].id)
    assert "maybe-rotated" in result.text(loads[2].id)


def test_the_doctor_writes_what_was_missing(server: ComfyServer, rotated: tuple[str, str]) -> None:
    marked, saved = rotated
    graph = Graph()
    node = graph.add(
        "FQInspect", file=f"diffusion_models/{saved}", repair=True, rotated="256",
        filename_prefix="diffusion_models/derotated",
    )  # fmt: skip
    result = server.run(graph)
    assert result.done, result
    assert "every code is the same as before" in result.text(node.id)
    (mended,) = (server.base / "output" / "diffusion_models").glob("derotated*.safetensors")
    found = load_file(mended)
    wanted = load_file(server.models("diffusion_models") / marked)
    assert set(found) == set(wanted)


def test_a_group_that_no_layer_has_is_refused(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    name = models.model("flux").name
    loaded = graph.add("FQLoadDiT", file=name, scheme="as stored", rotated="256")
    save_latent(graph, sample(graph, loaded, "flux"), "never")
    failure = server.run(graph).failure
    assert failure is not None and "nothing-rotated: found" in failure.message


@pytest.mark.parametrize("choice", ["lightx2v", "lightx2v, a file for each block"])
def test_a_file_for_lightx2v_is_that_of_the_command_line_and_opens_again(
    server: ComfyServer, models: Models, tmp_path: Path, choice: str
) -> None:
    source, by_block = models.model("wan"), choice != "lightx2v"
    prefix = f"diffusion_models/x2v-{'blocks' if by_block else 'one'}"
    graph = Graph()
    node = graph.add(
        "FQConvert", file=source.name, scheme="int8", count="0", format=choice,
        filename_prefix=prefix,
    )  # fmt: skip
    result = server.run(graph)
    assert result.done, result
    assert "for lightx2v" in result.text(node.id)
    (made,) = (server.base / "output" / "diffusion_models").glob(f"{Path(prefix).name}*")
    out = tmp_path / ("out" if by_block else "out.safetensors")
    more = ["--by-block"] if by_block else []
    words = ["convert", source, "--scheme", "int8", "--format", "lightx2v", *more, "--out", out]
    assert main([str(word) for word in words]) == 0
    for name in [INDEX, "block_0.safetensors"] if by_block else [""]:
        assert (made / name).read_bytes() == (out / name).read_bytes()
    again = Graph()
    target = server.models("diffusion_models") / made.name
    made.rename(target)
    loaded = again.add("FQLoadDiT", file=made.name, scheme="as stored")
    stock = again.add("UNETLoader", unet_name=source.name, weight_dtype="default")
    nodes = [
        save_latent(again, sample(again, model, "wan"), f"x2v-{at}")
        for at, model in enumerate((loaded, stock))
    ]
    ran = server.run(again)
    first, second = (latent(server, ran, saved) for saved in nodes)
    assert 0 < float((first - second).norm() / second.norm()) < 0.1
    assert "LightX2V" in ran.text(loaded.id)
