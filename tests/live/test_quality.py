"""Quality Meter: it finds a planted layer, a lost LoRA, a black picture; and as a node."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from . import tiny
from .comfy import Comfy
from .conftest import Models
from .graphs import FAMILIES, Graph
from .inprocess import run_inside
from .server import ComfyServer

PLANTED = "double_blocks.1.img_mlp.2"
Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("quality")
    model = tiny.flux(folder / "flux.safetensors")
    lora = tiny.lora(folder / "lora.safetensors", model)
    found: Facts = defaultdict(list)
    small = folder / "small.safetensors"
    save_file(_weakened(load_file(model), load_file(lora)), small)
    for line in run_inside(comfy, "host_quality", 400, model=model, lora=lora, small=small):
        found[line.pop("fact")].append(line)
    return found


def _weakened(weights: dict[str, Any], lora: dict[str, Any]) -> dict[str, Any]:
    """The LoRA with each delta at 1 % of its weight."""
    made = dict(lora)
    for key, down in lora.items():
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removesuffix(".lora_A.weight")
        up = lora[f"{name}.lora_B.weight"].float()
        weight = weights[f"{name.removeprefix('diffusion_model.')}.weight"].float()
        size = (up @ down.float()).norm() / weight.norm()
        made[f"{name}.lora_B.weight"] = (up * 0.01 / size).to(down.dtype)
    return made


def test_a_good_model_passes(facts: Facts) -> None:
    (line,) = facts["good"]
    assert line["passed"], line["failures"]
    assert line["layers"] > 20 and 0 < line["error"] < 0.06


def test_a_planted_layer_comes_first(facts: Facts) -> None:
    (line,) = facts["planted"]
    assert not line["passed"]
    assert line["worst"] == PLANTED and line["error"] == pytest.approx(0.3, abs=0.02)
    assert PLANTED in line["failures"][0] and PLANTED in line["text"]


def test_nan_never_passes(facts: Facts) -> None:
    (line,) = facts["nan"]
    assert not line["passed"] and line["worst"] == PLANTED
    assert "NaN or infinity" in line["failures"][0]


@pytest.mark.parametrize("scheme", ["fp8", "int8"])
@pytest.mark.parametrize("fact", ["fused", "recipe"])
def test_a_lora_fused_before_quantizing_is_there(facts: Facts, fact: str, scheme: str) -> None:
    line = next(line for line in facts[fact] if line["scheme"] == scheme)
    assert line["passed"], line["failures"]
    assert line["kept"][0] == pytest.approx(1.0, abs=0.05)
    assert line["named"] == ["small.safetensors"]
    assert ("added to the reference" in line["text"]) == (fact == "recipe")


def test_a_lora_on_a_bare_fp8_cast_is_lost(facts: Facts) -> None:
    """ComfyUI rounds it stochastically, so that on average it is there; the weights are noise."""
    (line,) = facts["lost"]
    assert line["error"] > facts["fused"][0]["error"] * 1.3


def test_a_live_lora_is_there(facts: Facts) -> None:
    (line,) = facts["live"]
    assert line["passed"] and line["kept"][0] == pytest.approx(1.0, abs=0.05)


def test_a_stock_lora_after_quantizing_is_rounded_twice(facts: Facts) -> None:
    (line,) = facts["after"]
    fused = next(line for line in facts["fused"] if line["scheme"] == "int8")
    assert line["error"] > 1.3 * fused["error"]
    assert line["kept"][0] == pytest.approx(1.0, abs=0.2)


def test_what_another_clone_has_loaded_is_not_measured(facts: Facts) -> None:
    (line,) = facts["other clone"]
    assert line["error"] == facts["good"][0]["error"]


def test_both_are_sampled_from_one_seed(facts: Facts) -> None:
    eight, four = facts["sampled"]
    assert 0 < eight["latent"] < four["latent"]
    assert eight["psnr"] > four["psnr"]
    drawn = eight["chart"][0] == 1 and eight["chart"][2] > 600 and eight["chart"][3] == 3
    assert drawn or "install matplotlib" in eight["text"]
    (lora,) = facts["same lora"]
    assert lora["latent"] < 0.1


def test_a_black_picture_never_passes(facts: Facts) -> None:
    (line,) = facts["black"]
    assert not line["passed"]
    assert any("the picture is black" in why for why in line["failures"])


def test_the_node_on_a_server(server: ComfyServer, models: Models) -> None:
    graph = Graph()
    loaded = graph.add("FQLoadDiT", file=models.model("flux").name, scheme="as stored")
    quantized = graph.add("FQQuantizeModel", model=loaded, scheme="int8")
    latent, size, (width, pooled) = FAMILIES["flux"]
    text = graph.add("FQTestConditioning", width=width, pooled=pooled, guidance=4.0, seed=0)
    vae = graph.add("VAELoader", vae_name=models.vae().name)
    meter = graph.add(
        "FQQuality", reference=loaded, model=quantized, positive=text, vae=vae,
        latent_image=graph.add(latent, **size, batch_size=1), steps=1,
    )  # fmt: skip
    shown = graph.add("SaveImage", images=meter.out(1), filename_prefix="chart")
    result = server.run(graph)
    assert result.done, result.failure or result.node_errors
    told = result.text(meter.id)
    assert told.startswith("Quality Meter: ") and "latent error" in told and "PSNR" in told
    drawn = len(server.image(result.files(shown.id)[0])) > 5000
    assert drawn or "install matplotlib" in told


def test_nothing_connected_is_refused(server: ComfyServer) -> None:
    graph = Graph()
    graph.add("FQQuality", level="normal")
    result = server.run(graph)
    assert not result.done and "nothing-to-measure" in str(result.failure)
