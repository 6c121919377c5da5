"""VRAM Manager, Speed Options and the order warning: what holds while a model is sampled."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

GIB = 2**30
TOTAL, FOREIGN, CONTEXT = 24 * GIB, 3 * GIB, GIB // 2  # the card that the script pretends
Facts = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the script found out, by question."""
    folder = tmp_path_factory.mktemp("sampling")
    model = tiny.flux(folder / "flux.safetensors")
    lora = tiny.lora(folder / "lora.safetensors", model)
    found: Facts = defaultdict(list)
    for line in run_inside(comfy, "host_sampling", 400, model=model, lora=lora):
        found[line.pop("fact")].append(line)
    return found


def one(facts: Facts, fact: str, **asked: Any) -> dict[str, Any]:
    """The single line of a question."""
    (line,) = (x for x in facts[fact] if all(x[key] == value for key, value in asked.items()))
    return line


# --- VRAM Manager ---


@pytest.mark.parametrize(
    ("mode", "reserved"),
    [
        ("auto", None),
        ("auto_offload", None),
        ("limit", TOTAL - FOREIGN - 10 * GIB),
        ("buffer", 2 * GIB),
        ("both", 4 * GIB),  # 24 - 3 - 4 = 17 GiB is less than the limit of 20
        ("low VRAM", TOTAL),
        ("keep resident", None),
        ("loose", None),  # a limit above the card changes nothing
    ],
)
def test_a_mode_sets_its_reserve_while_the_model_is_loaded_and_puts_it_back(
    facts: Facts, mode: str, reserved: int | None
) -> None:
    line = one(facts, "mode", mode=mode)
    assert line["reserved"] == (line["before"] if reserved is None else reserved)
    assert line["after"] == line["before"]
    assert line["full"] == (mode == "keep resident")


def test_nothing_is_set_during_the_steps(facts: Facts) -> None:
    assert one(facts, "in the steps")["reserved"] == [one(facts, "mode", mode="auto")["before"]]


def test_conditions_that_are_computed_together_are_reckoned_with(facts: Facts) -> None:
    assert one(facts, "cfg")["reserved"] > one(facts, "mode", mode="limit")["reserved"]


def test_of_two_managers_in_a_row_the_last_acts_alone(facts: Facts) -> None:
    line = one(facts, "twice")
    assert line["reserved"] == [TOTAL - FOREIGN - 10 * GIB]
    assert line["wrappers"] == [1, 1]


def test_everything_is_put_back_when_loading_or_a_step_fails(facts: Facts) -> None:
    line = one(facts, "failure")
    assert line["raised"] == ["loading", "step"]
    assert line["after"] == line["before"]
    assert "stopped by StoppedError" in line["told"]


def test_dynamic_vram_gets_a_cap_for_a_limit_and_a_hold_to_keep_resident(facts: Facts) -> None:
    calls = {line["mode"]: line["calls"] for line in facts["dynamic"]}
    (first, cap), (last, everything) = calls["limit"]
    assert (first, last) == ("cap", "cap")
    assert 0 < 10 * GIB - CONTEXT - cap < GIB  # what is left for activations
    assert everything > TOTAL
    assert calls["low VRAM"] == [["cap", 0], ["cap", everything]]
    size = one(facts, "dynamic", mode="auto")["size"]
    assert calls["keep resident"] == [["hold", size], ["hold", 0]]
    assert calls["auto"] == []


def test_dynamic_vram_is_given_back_when_a_step_fails(facts: Facts) -> None:
    assert all(line["stopped"] == "step" and line["same"] for line in facts["dynamic"])


def test_the_report_before_says_why_nothing_is_limited_on_a_cpu(facts: Facts) -> None:
    line = one(facts, "measured")
    assert "nothing is limited here: the model is computed on the CPU" in line["before"]
    assert "nothing was sampled yet" in line["empty"]


def test_the_measured_peak_is_beside_the_predicted_one_after_sampling(facts: Facts) -> None:
    line = one(facts, "measured")
    assert line["runs"] == 1
    assert line["peak"] >= line["parts"]["held before"] > 0
    assert line["parts"]["step"] > 0 and line["parts"]["libraries"] > 0
    assert "peak measured" in line["text"] and "predicted" in line["text"]
    assert "limit" not in line["text"].split(")", 1)[1]  # none acted
    assert line["text"] in line["free"]


# --- Speed Options ---


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("state", ["fresh", "older", "medium", "newer"])
def test_tf32_holds_while_sampling_and_is_put_back_from_every_state(
    facts: Facts, state: str, allowed: bool
) -> None:
    line = one(facts, "tf32", state=state, allowed=allowed)
    assert line["inside"] == ["tf32" if allowed else "ieee"]
    assert line["restored"]
    assert line["stopped"] == "step"


def test_attention_is_set_for_one_model_and_computes_the_same(facts: Facts) -> None:
    line = one(facts, "attention")
    assert line["set"] == [True, True] and not line["upstream"]
    assert line["error"] < 1e-4
    assert {"auto", "pytorch", "sub_quad"} <= set(line["names"])


@pytest.mark.parametrize(("scheme", "ops"), [
    ("none", []), ("int8", ["int8_linear"]), ("fp8", ["fp8_linear"]),
])  # fmt: skip
def test_another_compute_dtype_dequantizes_nothing_by_our_node_or_by_comfyuis(
    facts: Facts, scheme: str, ops: list[str]
) -> None:
    line = one(facts, "computing", scheme=scheme)
    found = [op.replace("_packed", "") for op in line["ops"]]  # where the CPU has int8 units
    assert found == ops and line["same"] and line["upstream"]
    assert 0 < line["error"] < 0.05
    assert "computes in: bf16 for this model" in line["text"]


def test_attention_that_is_not_there_is_refused_by_name(facts: Facts) -> None:
    line = one(facts, "attention")
    assert "flash9" in line["refused"] and "pytorch" in line["refused"]
    assert "flash9" in line["other"]


def test_fp8_attention_is_offered_only_where_it_is_fp8(facts: Facts) -> None:
    line = one(facts, "attention")
    assert "fp8" not in line["names"]
    assert "fp8 is not offered here: fp8 attention needs an NVIDIA device" in line["fp8"]
    assert "FP8 attention: not offered here" in line["text"]


def test_the_report_says_what_is_comfyuis_own_and_what_means_nothing_here(facts: Facts) -> None:
    text = one(facts, "attention")["text"]
    assert "non-blocking copies: ComfyUI's own" in text
    assert "KV reuse: ComfyUI's own" in text
    assert "TF32: nothing to set: TF32 is NVIDIA's" in text


def test_a_compiled_model_gives_the_same_numbers(facts: Facts) -> None:
    assert one(facts, "compiled")["error"] < 1e-6


def test_compiling_before_or_after_quantizing_is_the_same(facts: Facts) -> None:
    line = one(facts, "compiled, quantized")
    assert line["late"] < 1e-6 and line["first"] < 1e-6
    assert line["source"] > 1e-3


# --- order ---


def test_a_lora_after_quantizing_is_told_once_for_each_set_of_loras(facts: Facts) -> None:
    lines = one(facts, "order")["lines"]
    told = {name: len(found) for name, found in lines.items()}
    assert told.pop("late") == told.pop("more") == told.pop("on load") == 1
    assert set(told.values()) == {0}


def test_the_warning_says_how_many_what_it_costs_and_what_to_wire(facts: Facts) -> None:
    line = one(facts, "order")
    (text,) = line["lines"]["late"]
    assert "26 of 26 quantized layers" in text
    assert "rounds each of them a second time" in text
    assert "Wire Fuse LoRA before Quantize Model, or Live LoRA after it" in text
    assert text in line["report"]


def test_nothing_upstream_and_nothing_process_wide_is_left_changed(facts: Facts) -> None:
    line = one(facts, "untouched")
    assert line["changed"] == [] and line["settings"]
    assert line["wrappers"] == {} and line["attachments"] == []
    assert line["options"] == {"transformer_options": {}}
