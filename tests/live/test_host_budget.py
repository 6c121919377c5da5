"""A byte budget inside ComfyUI: held, better than a plain scheme, the same however it is made."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("budget")
    model = tiny.flux(folder / "flux.safetensors")
    lora = tiny.lora(folder / "lora.safetensors", model)
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "host_budget", 500, model=model, lora=lora, folder=folder):
        found[line.pop("fact")].append(line)
    return found


def test_the_weights_stay_within_the_bytes(facts: Facts) -> None:
    for line in facts["budget"]:
        assert 0.9 * line["limit"] < line["bytes"] <= line["limit"]
        assert "predicted error of the output" in line["text"]
    small, large = (line["error"] for line in facts["budget"])
    assert large < small


def test_a_budget_beats_one_scheme_for_all_layers(facts: Facts) -> None:
    (plain,) = facts["plain"]
    large = facts["budget"][1]
    assert len(large["schemes"]) >= 1
    assert large["bytes"] < 1.2 * plain["bytes"]
    assert large["error"] < plain["error"]
    assert any("budget holds it" in why for why in large["kept"])


def test_memory_cache_and_a_fresh_copy_hold_the_same_bits(facts: Facts) -> None:
    (line,) = facts["ways"]
    assert line["same"] == [True, True, True]
    assert line["written"] and line["read"] and line["told"]
    assert line["fused"] > 0
    assert line["live"] + line["fused"] == line["patches"]  # on layers that stay it stays live
    assert "of the delta is left" in line["left"]


def test_too_small_a_budget_is_refused_with_what_would_do(facts: Facts) -> None:
    assert [line["kind"] for line in facts["too small"]] == ["budget-too-small"] * 2
    assert all("at least" in line["expected"] for line in facts["too small"])


def test_learned_rounding_gives_the_codes_of_the_command_line(facts: Facts) -> None:
    nearest, learned = facts["rounding"]
    assert learned["alike"] > 0.99 > nearest["alike"]
    assert "rounding learned: by the model itself" in learned["text"]
