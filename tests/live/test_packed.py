"""Packed int8 weights inside ComfyUI: one copy, the same pictures, files, LoRAs and sizes."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

LAYERS, STEPS = 26, 2
# float32 sums in another order; a code on the edge between two may fall the other way
BOUND = 2e-3
Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed")


@pytest.fixture(scope="module")
def facts(comfy: Comfy, folder: Path) -> Facts:
    """What the script found out, by question."""
    model = tiny.flux(folder / "flux.safetensors", double=2, single=2)
    lora = tiny.lora(folder / "lora.safetensors", model)
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "host_packed", 200, model=model, lora=lora, folder=folder):
        found[line.pop("fact")].append(line)
    return found


def one(facts: Facts, fact: str, **of: Any) -> dict[str, Any]:
    """The single line of a question."""
    (line,) = (line for line in facts[fact] if of.items() <= line.items())
    return line


@pytest.mark.parametrize("scheme", ("int8", "int8_convrot"))
def test_sampling_packs_every_layer_and_gives_the_same(facts: Facts, scheme: str) -> None:
    line = one(facts, "sampled", scheme=scheme)
    assert line["layers"] == LAYERS and line["before"] == 0 and line["rows"] == 0
    assert line["packed"] == LAYERS and line["products"] == STEPS * LAYERS
    assert line["freed"] == LAYERS  # never both
    assert line["error"] < BOUND


def test_a_file_is_packed_when_it_is_sampled(facts: Facts) -> None:
    assert one(facts, "loaded") == {"before": 0, "same": True, "packed": LAYERS}


@pytest.mark.parametrize("scheme", ("int8", "int8_convrot"))
def test_nothing_is_unpacked_to_be_measured_or_loaded_again(facts: Facts, scheme: str) -> None:
    assert one(facts, "sampled", scheme=scheme)["size"]
    assert one(facts, "sampled again", scheme=scheme) == {
        "scheme": scheme, "same": True, "unpacked": 0,
    }  # fmt: skip


def test_files_of_packed_weights_are_those_of_rows(facts: Facts) -> None:
    line = one(facts, "saved")
    assert line["unsampled"] == 0 and line["packed"] == LAYERS
    paths = line["paths"]
    assert Path(paths["fresh"]).read_bytes() == Path(paths["packed"]).read_bytes()
    ours, core = load_file(paths["fresh"]), load_file(paths["core"])
    core = {key.removeprefix("model.diffusion_model."): tensor for key, tensor in core.items()}
    for name, tensor in ours.items():
        if name.endswith((".weight", ".weight_scale")):
            assert torch.equal(core[name.removeprefix("model.diffusion_model.")], tensor), name


def test_packing_a_file_is_predicted_once(facts: Facts) -> None:
    line = one(facts, "predicted")
    assert line["rows"] > LAYERS * 256 * 256 and line["told"] == [line["rows"], 0, 0, 0]


def test_a_lora_of_the_host_goes_on_and_off(facts: Facts, folder: Path) -> None:
    line = one(facts, "patched")
    assert line["layers"] == line["packed"] == line["restored"] == line["products"] == LAYERS
    assert line["error"] < BOUND < line["changed"]
    assert line["back"] and line["state"]
    packed, rows = (load_file(folder / f"patched-{i}.safetensors") for i in (1, 2))
    assert packed.keys() == rows.keys()
    assert all(torch.equal(packed[name], rows[name]) for name in rows)


@pytest.mark.parametrize("first", (True, False), ids=("packed before", "packed by it"))
def test_a_live_lora_shares_the_one_copy(facts: Facts, first: bool) -> None:
    line = one(facts, "live", first=first)
    assert line["before"] == (LAYERS if first else 0)
    assert line["packed"] == [LAYERS, LAYERS] and line["shared"]
    assert line["products"] == line["layers"] == LAYERS
    assert line["error"] < BOUND and line["upstream"]


def test_unloading_loading_and_quantizing_again(facts: Facts) -> None:
    line = one(facts, "again")
    assert line["same"] and line["packed"] == LAYERS and line["other"] == 0


def test_a_compiled_model_gives_the_same(facts: Facts) -> None:
    line = one(facts, "compiled")
    assert line["before"] == LAYERS
    assert line["error"] < BOUND and line["after"] < BOUND
