"""GGUF files in ComfyUI: the numbers of `dequant`; listed without a change to its own lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fusequant.cli.main import main

from ..engine.gguf_file import encoded, file_of
from ..engine.test_gguf import T5
from . import tiny
from .comfy import Comfy
from .conftest import Models
from .graphs import Graph, sample, save_latent
from .inprocess import run_inside
from .server import ComfyServer

KINDS = ("Q8_0", "Q4_K")
BOUNDS = {"Q8_0": 0.05, "Q4_K": 0.6}
Lines = dict[str, dict[str, Any]]


def flux_gguf(source: Path, target: Path, kind: str) -> Path:
    """A FLUX whose block matrices are blocks of GGUF."""
    target.write_bytes(file_of(encoded(load_file(source), kind, "_blocks.")))
    return target


def t5_gguf(source: Path, target: Path) -> Path:
    """A T5 under llama.cpp's names, with every block's layers."""
    spelled = {}
    for block in range(24):
        at = f".block.{block}."
        names = {core.replace(".block.0.", at): name for name, core in T5.items()}
        spelled |= {core: name.replace(".blk.0.", f".blk.{block}.") for core, name in names.items()}
    tensors = {spelled[name]: tensor for name, tensor in load_file(source).items()}
    facts = {"general.architecture": "t5encoder"}
    target.write_bytes(file_of(encoded(tensors, "Q8_0", "blk."), facts))
    return target


@pytest.fixture(scope="module")
def lines(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Lines:
    """What the script found out, by the name of the file."""
    folder = tmp_path_factory.mktemp("gguf")
    flux = tiny.flux(folder / "flux.safetensors")
    files = {}
    for kind in KINDS:
        path = flux_gguf(flux, folder / f"flux-{kind}.gguf", kind)
        plain = folder / f"flux-{kind}.safetensors"
        assert main(["dequant", str(path), "--out", str(plain), "--dtype", "bf16"]) == 0
        files[kind] = (str(path), str(plain))
    t5 = tiny.t5(folder / "t5.safetensors")
    gguf = t5_gguf(t5, folder / "t5.gguf")
    assert main(["repair", str(gguf), "--out", str(folder / "t5-mended.safetensors")]) == 0
    encoders = {
        "clip": tiny.clip_l(folder / "clip_l.safetensors", width=256, layers=3),
        "t5": t5,
        "gguf": gguf,
        "mended": folder / "t5-mended.safetensors",
    }
    found = run_inside(comfy, "host_gguf", 400, flux=flux, files=files, encoders=encoders)
    return {line["file"]: line for line in found}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flux_has_the_weights_of_dequant(lines: Lines, kind: str) -> None:
    line = lines[kind]
    assert line["different"] == [] and line["compared"] > 60
    assert line["same_output"] and 0 < line["error"] < BOUNDS[kind]
    assert line["copy"]


@pytest.mark.parametrize("kind", KINDS)
def test_quantizing_while_loading_starts_from_these_weights(lines: Lines, kind: str) -> None:
    line = lines[kind]
    assert line["layers"] == 26 and line["int8_bits"]
    assert any("rounds twice" in warning for warning in line["warnings"])


def test_a_t5_under_llama_cpp_s_names_encodes(lines: Lines) -> None:
    line = lines["t5"]
    assert line["as_mended"] < 1e-6  # what ComfyUI's own loader makes of the repaired file
    assert line["error"] < 0.1
    assert line["int8"] < 0.15 and line["layers"] == 168 + 18  # CLIP-L has 18 of its own


def test_the_nodes_list_and_open_it_and_comfyui_s_own_list_is_as_it_was(
    server: ComfyServer, models: Models
) -> None:
    source = models.model("flux")
    name = "inside/flux-q8.gguf"
    path = server.models("diffusion_models") / name
    path.parent.mkdir(exist_ok=True)
    flux_gguf(source, path, "Q8_0")
    inputs = server.object_info("FQLoadDiT")["FQLoadDiT"]["input"]["required"]
    assert name in str(inputs["file"])
    stock = server.object_info("UNETLoader")["UNETLoader"]["input"]["required"]
    assert "gguf" not in str(stock["unet_name"])
    graph = Graph()
    loaded = graph.add("FQLoadDiT", file=name, scheme="as stored")
    told = graph.add("FQInspect", file=f"diffusion_models/{name}", repair=False)
    save_latent(graph, sample(graph, loaded, "flux"), "gguf")
    result = server.run(graph)
    assert result.done, result
    assert "GGUF" in result.text(loaded.id) and "GGUF" in result.text(told.id)
    assert "gguf_q8_0" in result.text(told.id)
