"""A model whose weights stay in the map of their file computes and behaves like a copied one."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

FILES = ("bfloat16", "float16", "float32", "mixed", "shifted", "other")


def _shifted(source: Path, target: Path) -> Path:
    """The same tensors, each off the alignment of its dtype."""
    save_file(load_file(source), target)
    data = target.read_bytes()
    size = int.from_bytes(data[:8], "little")
    length = size + 1  # one space more in the header: every tensor one byte further
    target.write_bytes(length.to_bytes(8, "little") + data[8 : 8 + size] + b" " + data[8 + size :])
    return target


def _mixed(source: Path, target: Path) -> Path:
    """The same file, a few of its tensors in float32."""
    found = load_file(source)
    save_file({k: t.float() if "norm" in k else t for k, t in found.items()}, target)
    return target


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("host-mapped")
    files = {"bfloat16": tiny.flux(folder / "bfloat16.safetensors")}
    files["other"] = tiny.flux(folder / "other.safetensors", seed=1)
    for name in ("float16", "float32"):
        dtype = getattr(torch, name)
        files[name] = tiny.flux(folder / f"{name}.safetensors", dtype=dtype)
    files["mixed"] = _mixed(files["bfloat16"], folder / "mixed.safetensors")
    files["shifted"] = _shifted(files["bfloat16"], folder / "shifted.safetensors")
    large = tiny.flux(folder / "large.safetensors", hidden=768)
    lora = tiny.lora(folder / "lora.safetensors", files["bfloat16"])
    found: dict[str, Any] = defaultdict(dict)
    for line in run_inside(
        comfy, "host_mapped", 400, folder=folder, large=large, lora=lora, **files
    ):
        fact = line.pop("fact")
        found[fact] = line if "name" not in line else {**found[fact], line.pop("name"): line}
    return found


def test_a_loaded_model_takes_no_memory_of_its_own(facts: dict[str, Any]) -> None:
    assert facts["memory"]["mapped"] < 0.03
    assert facts["memory"]["copied"] > 0.9


@pytest.mark.parametrize("name", FILES)
def test_it_is_the_model_that_the_host_would_copy(facts: dict[str, Any], name: str) -> None:
    line = facts["file"][name]
    assert line["size"] and line["shapes"] and line["bits"]
    # float32 weights lie elsewhere in memory: their products may add up in another order
    assert line["output"] < (1e-6 if name == "float32" else 1e-12)
    assert line["stock"] < 1e-6
    assert line["factory"] == "load_diffusion_model"
    assert line["again"] < 1e-6


def test_a_tensor_off_its_alignment_is_copied(facts: dict[str, Any]) -> None:
    assert all(facts["file"][name]["aligned"] for name in FILES)


def test_it_is_saved_with_the_bits_of_its_file(facts: dict[str, Any]) -> None:
    assert facts["save"]["equal"]


@pytest.mark.parametrize("way", ["lora", "hook"])
def test_a_stock_lora_acts_and_goes_again(facts: dict[str, Any], way: str) -> None:
    line = facts[way]
    assert line["changes"] > 1e-3
    assert line["equal"] and line["off"]


def test_it_can_be_merged(facts: dict[str, Any]) -> None:
    assert facts["merge"]["equal"] and facts["merge"]["changes"] > 1e-3


@pytest.mark.parametrize("how", ["half", "third", "selected", "compiled"])
def test_it_can_be_placed_and_compiled(facts: dict[str, Any], how: str) -> None:
    assert facts["placed"][how] < 1e-6


def test_nothing_was_written_into_the_file(facts: dict[str, Any]) -> None:
    assert facts["bytes of the file"]["equal"]
