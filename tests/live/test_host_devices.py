"""Files and schemes on a machine with the rules of MPS: no fp8 tensor, no 4-bit, a reason."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

Facts = dict[str, list[dict[str, Any]]]
LAYERS = 26


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("devices")
    model = tiny.flux(folder / "flux.safetensors")
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "host_devices", model=model, folder=folder):
        found[line.pop("fact")].append(line)
    return found


def test_an_fp8_file_is_dequantized_before_the_device_and_says_so(facts: Facts) -> None:
    (line,) = (x for x in facts["stored"] if x["scheme"] == "fp8")
    assert line["fp8"] == [] and line["layouts"] == []
    assert "WARNING: fp8 cannot be on" in line["text"] and "dequantized on the CPU" in line["text"]
    assert line["error"] < 0.08


@pytest.mark.parametrize("scheme", ["int8", "int8_weight_only"])
def test_an_int8_file_stays_int8_on_layers_that_the_device_can_compute(
    facts: Facts, scheme: str
) -> None:
    (line,) = (x for x in facts["stored"] if x["scheme"] == scheme)
    assert "translated for ComfyUI" in line["text"]
    assert not [name for name in line["layouts"] if name == "TensorWiseINT8Layout"]
    assert line["error"] < 0.08


def test_the_hosts_own_fresh_copies_are_made_the_same_way(facts: Facts) -> None:
    assert all(line["again"] for line in facts["stored"])


def test_a_scheme_that_the_device_refuses_names_what_to_use(facts: Facts) -> None:
    assert len(facts["refused"]) == 6
    for line in facts["refused"]:
        assert "use 8-bit" in line["told"]
        four_bit = line["scheme"] != "fp8"
        assert ("4-bit is not supported on this device: use 8-bit" in line["told"]) == four_bit


def test_an_fp8_file_becomes_8_bit_without_an_fp8_tensor_left(facts: Facts) -> None:
    (line,) = facts["fp8 to 8-bit"]
    assert line["fp8"] == [] and line["int8"] == LAYERS
    assert line["error"] < 0.08
