"""A plan steers Quantize Model and VRAM Manager where the user left a choice open, and says so."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

GIB = 2**30
LAYERS = 26  # of a FLUX with two double and two single blocks, modulation included


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the script found out, by question and case."""
    folder = tmp_path_factory.mktemp("planned")
    model = tiny.flux(folder / "flux.safetensors")
    clip = tiny.clip_l(folder / "clip_l.safetensors")
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for line in run_inside(comfy, "host_planned", 400, model=model, clip=clip):
        found[line.pop("fact")][line.pop("name", "")] = line
    return found


def test_open_choices_of_quantize_model_come_from_the_plan(facts: dict[str, Any]) -> None:
    line = facts["quantized"]["open"]
    (count,) = line["schemes"].values()
    assert set(line["schemes"]) == {"fp8_row"} and 0 < count < LAYERS
    assert "from the plan: scheme fp8_row, keep single_blocks.0.*" in line["text"]


def test_what_the_user_set_wins(facts: dict[str, Any]) -> None:
    assert set(facts["quantized"]["own scheme"]["schemes"]) == {"int8"}
    assert "from the plan: keep single_blocks.0.*" in facts["quantized"]["own scheme"]["text"]
    kept = facts["quantized"]["own keep"]
    assert "from the plan: scheme fp8_row\n" in kept["text"]
    assert "double_blocks" in kept["text"]


def test_a_text_encoder_takes_its_own_scheme_of_the_plan(facts: dict[str, Any]) -> None:
    line = facts["quantized"]["clip"]
    assert set(line["schemes"]) == {"int8"} and "from the plan: scheme int8\n" in line["text"]


def test_the_node_hands_the_plan_on_and_takes_no_other_link(facts: dict[str, Any]) -> None:
    line = facts["node"][""]
    assert "from the plan: scheme fp8_row" in line["text"]
    assert line["plan"] is True
    assert "expected FQ_PLAN" in line["other"]


@pytest.mark.parametrize(
    ("name", "free_gib", "told"),
    [
        ("open", 10, "from the plan: mode limit, limit 10.00 GiB, buffer 2.00 GiB"),
        ("own limit", 5, "from the plan: buffer 2.00 GiB"),
        ("own mode", -3, "from the plan: buffer 2.00 GiB"),  # everything is reserved
        ("own buffer", 6, "from the plan: mode limit, limit 10.00 GiB;"),
    ],
)
def test_vram_manager_does_what_the_plan_says_where_nothing_is_set(
    facts: dict[str, Any], name: str, free_gib: int, told: str
) -> None:
    line = facts["placed"][name]
    assert line["free"] == free_gib * GIB
    assert told in line["text"] and "it predicts 7.00 GiB of VRAM" in line["text"]


def test_what_is_no_plan_is_refused_by_name(facts: dict[str, Any]) -> None:
    assert facts["refused"][""]["kinds"] == ["plan-unknown", "plan-unknown"]
