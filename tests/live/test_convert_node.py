"""Fuse + Quantize + Save and Checkpoint Doctor on a server: files as of the command line."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from . import tiny
from .comfy import Comfy
from .conftest import Models
from .graphs import Graph, Node, sample, save_latent
from .server import ComfyServer, Result

SLOW = "int8_convrot"


def written(server: ComfyServer, graph: Graph, node: Node) -> tuple[Path, str]:
    """Run a graph with one writing node -> the file that its report names, and the report."""
    result = server.run(graph)
    assert result.done, result
    text = result.text(node.id)
    found = [line for line in text.splitlines() if str(server.base / "output") in line]
    assert len(found) == 1, text
    path = str(server.base / "output") + found[0].split(str(server.base / "output"))[1]
    return Path(path.split(".safetensors")[0] + ".safetensors"), text


def command_line(comfy: Comfy, server: ComfyServer, *args: object) -> None:
    """Run a verb of the command line in ComfyUI's interpreter, with the linked pack."""
    done = subprocess.run(
        [str(comfy.python), "-m", "fusequant", *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(server.base / "custom_nodes")},
        cwd=server.base,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("scheme", "strengths"), [("fp8", ()), ("int8", (0.75,)), ("fp8_row", (1.0, -0.5))]
)
def test_the_node_writes_the_bytes_of_the_command_line(
    comfy: Comfy, server: ComfyServer, models: Models, tmp_path: Path, scheme: str,
    strengths: tuple[float, ...],
) -> None:  # fmt: skip
    source = models.model("flux")
    loras = [models.lora("flux", spelling) for spelling in ("native", "diffusers")]
    graph, given = Graph(), {}
    for n, (lora, strength) in enumerate(zip(loras, strengths, strict=False), 1):
        given |= {f"count.lora_{n}": lora.name, f"count.strength_{n}": strength}
    node = graph.add(
        "FQConvert", file=source.name, scheme=scheme, count=str(len(strengths)),
        filename_prefix=f"diffusion_models/converted-{scheme}", **given,
    )  # fmt: skip
    path, text = written(server, graph, node)
    assert f"quantized: 26 x {scheme}" in text
    assert text.count("modules fused") == len(strengths)
    out = tmp_path / "command.safetensors"
    more = [f"--lora={lora}:{strength}" for lora, strength in zip(loras, strengths, strict=False)]
    command_line(comfy, server, "convert", source, "--scheme", scheme, *more, "--out", out)
    assert path.read_bytes() == out.read_bytes()


def test_a_lora_that_does_not_fit_is_refused_in_one_sentence(
    server: ComfyServer, models: Models
) -> None:
    graph = Graph()
    graph.add(
        "FQConvert", file=models.model("flux").name, scheme="int8", count="1",
        filename_prefix="diffusion_models/misfit", **{"count.lora_1": models.lora("wan").name},
    )  # fmt: skip
    failure = server.run(graph).failure
    assert failure is not None and "lora-matches-nothing: found" in failure.message
    assert not list((server.base / "output").rglob("*misfit*"))


def test_a_number_of_loras_that_is_none_is_refused_before_it_runs(
    server: ComfyServer, models: Models
) -> None:
    graph = Graph()
    graph.add(
        "FQConvert", file=models.model("flux").name, scheme="int8", count="99",
        filename_prefix="diffusion_models/none",
    )  # fmt: skip
    result = server.run(graph)
    assert result.refused is not None or result.node_errors


def test_an_interrupted_conversion_leaves_nothing(server: ComfyServer, models: Models) -> None:
    source = models.model("qwen")
    folder = server.base / "output" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    before = sorted(folder.iterdir())
    graph = Graph()
    graph.add(
        "FQConvert", file=source.name, scheme=SLOW, count="0",
        filename_prefix="diffusion_models/interrupted",
    )  # fmt: skip
    posted = server.post(graph)
    assert not isinstance(posted, Result)
    limit = time.monotonic() + 60
    while not list(folder.glob(".*.partial")) and time.monotonic() < limit:
        time.sleep(0.005)
    server.interrupt()
    assert server.wait(posted, 60).interrupted
    assert sorted(folder.iterdir()) == before


# --- Checkpoint Doctor ---


def foreign(models: Models) -> Path:
    """The tiny FLUX as LightX2V stores int8: codes and scales of rows, no marker."""
    source = models.model("flux")
    path = source.with_name("tiny-lightx2v-int8.safetensors")
    if path.exists():
        return path
    tensors = load_file(source)
    for layer in tiny.layers(source):
        weight = tensors[f"{layer}.weight"].float()
        scale = weight.abs().amax(1, keepdim=True) / 127
        tensors[f"{layer}.weight"] = (weight / scale).round().clamp(-128, 127).to(torch.int8)
        tensors[f"{layer}.weight_scale"] = scale
    save_file(tensors, str(path))
    return path


def sampled(server: ComfyServer, loader: str, **inputs: object) -> torch.Tensor:
    """The latent of a model that a loader node opens."""
    graph = Graph()
    saved = save_latent(graph, sample(graph, graph.add(loader, **inputs), "flux"), "doctor")
    result = server.run(graph)
    assert result.done, result
    return load_file(server.path(result.files(saved.id)[0]))["latent_tensor"]


def test_the_doctor_mends_a_lightx2v_file_for_stock_nodes(
    server: ComfyServer, models: Models
) -> None:
    file = foreign(models)
    before = file.read_bytes()
    graph = Graph()
    node = graph.add("FQInspect", file=f"diffusion_models/{file.name}", repair=True)
    path, text = written(server, graph, node)
    assert "every code is the same as before" in text
    assert "no problem found" in text
    assert "opens in: Load Diffusion Model (UNETLoader)" in text
    assert path.name == "tiny-lightx2v-int8_repaired_00001_.safetensors"
    assert file.read_bytes() == before
    ours = sampled(server, "FQLoadDiT", file=file.name, scheme="as stored", backend="kitchen")
    stock = sampled(server, "UNETLoader", unet_name=path.name, weight_dtype="default")
    assert torch.equal(stock, ours)


def test_the_doctor_tells_what_a_file_is_and_what_is_wrong(
    server: ComfyServer, models: Models
) -> None:
    broken = models.model("flux").with_name("tiny-broken.safetensors")
    broken.write_bytes(models.model("flux").read_bytes()[:5000])
    cases = {
        f"diffusion_models/{models.model('flux').name}": ("FLUX", "no problem found"),
        f"diffusion_models/{foreign(models).name}": ("PROBLEM", "fix:", "opens in: FuseQuant"),
        f"diffusion_models/{broken.name}": ("cannot be read", "PROBLEM", "fix:"),
        f"loras/{models.lora('flux').name}": ("a LoRA of 26 modules",),
        f"text_encoders/{models.clip_l().name}": ("CLIP text encoder", "no problem found"),
    }
    for file, wanted in cases.items():
        graph = Graph()
        node = graph.add("FQInspect", file=file, repair=False)
        result = server.run(graph)
        assert result.done, result
        text = result.text(node.id)
        for part in wanted:
            assert part in text, text


def test_the_doctor_writes_nothing_where_there_is_nothing_to_mend(
    server: ComfyServer, models: Models
) -> None:
    graph = Graph()
    node = graph.add("FQInspect", file=f"diffusion_models/{models.model('flux').name}", repair=True)
    result = server.run(graph)
    assert "there is nothing to mend" in result.text(node.id)
    assert not list((server.base / "output").rglob("tiny-flux_repaired*"))
