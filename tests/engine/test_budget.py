"""A byte budget: held to the byte, spent where the output needs it, refused where it is too small.

What is predicted is compared with what the reference transformers then show.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fusequant.engine.budget import weigh
from fusequant.engine.budget.probe import USES, probe
from fusequant.engine.budget.readers import COMFYUI, FUSEQUANT, readable
from fusequant.engine.budget.spend import Measured
from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.fuse.lora import open_lora
from fusequant.engine.insight import LayerInsight
from fusequant.engine.measure import quality
from fusequant.engine.measure.config import Config, FluxConfig
from fusequant.engine.measure.lora import write_lora
from fusequant.engine.measure.qwen import QwenConfig
from fusequant.engine.measure.references import make_inputs
from fusequant.engine.measure.synthetic import make_weights, write_like, write_tensors
from fusequant.engine.measure.wan import WanConfig
from fusequant.engine.pipeline import Prepared, Request, convert, prepare
from fusequant.engine.plan import Budget
from fusequant.engine.rows import all_schemes
from fusequant.engine.run import run_file
from fusequant.engine.specs import spec
from fusequant.engine.workers import Cancelled
from fusequant.kernels import registry

CONFIGS: dict[str, Config] = {
    "flux": FluxConfig(256, 1, 1),
    "wan": WanConfig(256, 768, 2),
    "qwen_image": QwenConfig(256, 2),
}
EVERY = readable(FUSEQUANT)
FEW = ("int8_convrot", "int8", "fp8_row", "int4_g128")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A model of each family, and a LoRA for the FLUX."""
    folder = tmp_path_factory.mktemp("budget")
    made = {}
    for name, config in CONFIGS.items():
        made[name] = folder / f"{name}.safetensors"
        write_like(made[name], config, seed=4)
    made["lora"] = folder / "lora.safetensors"
    write_lora(made["lora"], CONFIGS["flux"], "peft", rank=8, seed=4)
    return made


def planned(
    path: Path,
    max_bytes: int,
    lora: Path | None = None,
    measured: Measured | None = None,
    **more: object,
) -> Prepared:
    """The plan of a file within a budget, a few schemes allowed."""
    request = replace(Request(max_bytes=max_bytes, candidates=FEW), **more)  # type: ignore[arg-type]
    loras = [open_lora(lora)] if lora else []
    return prepare(open_source(path), loras, request, measured=measured)


def budget_of(prepared: Prepared) -> Budget:
    assert prepared.plan.budget is not None
    return prepared.plan.budget


def rank_correlation(first: list[float], second: list[float]) -> float:
    ranks = [torch.tensor(x).argsort().argsort().double() for x in (first, second)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_error_of_each_layer_is_predicted_before_the_model_runs(name: str) -> None:
    config = CONFIGS[name]
    weights = make_weights(config, seed=9)
    inputs = make_inputs(config, (10, 10), 24, seed=77)
    exact = quality.output(config, weights, inputs)
    insight = probe(config, lambda key: weights[key].float())
    layers = [*config.quantized(), config.modulation()[0]]
    told, shown = [], []
    scheme = all_schemes()["int8_convrot"]
    for layer in layers:
        weight = weights[f"{layer}.weight"]
        rows = weigh.Sample(weight.float(), torch.arange(weight.shape[0]))
        (found,) = weigh.weigh(layer, rows, [scheme], insight.layers[layer], "BF16").values()
        linears, _ = quality.quantize_linears(scheme, weights, [layer])
        with registry.use_backend("reference"):
            moved = quality.output(config, weights, inputs, linears)
        told.append(found.moved**0.5)
        shown.append(quality.output_error(exact, moved).relative_error)
    counted = [i for i, error in enumerate(shown) if error > 0]
    assert all(told[i] == 0 for i in range(len(layers)) if i not in counted)
    assert rank_correlation(told, shown) > 0.9
    ratios = sorted(told[i] / shown[i] for i in counted)
    assert 0.7 < ratios[len(ratios) // 2] < 1.5
    total = [sum(error**2 for error in errors) ** 0.5 for errors in (told, shown)]
    assert 0.75 < total[0] / total[1] < 1.35


@pytest.mark.parametrize("name", CONFIGS)
def test_a_budgeted_file_is_within_its_bytes_and_better_than_plain_ones(
    name: str, files: Mapping[str, Path], tmp_path: Path
) -> None:
    config, source = CONFIGS[name], files[name]
    inputs = make_inputs(config, (10, 10), 24, seed=5)
    exact = run_file(source, inputs)

    def moved(path: Path) -> float:
        with registry.use_backend("reference"):
            return quality.output_error(exact, run_file(path, inputs)).relative_error

    plain = prepare(open_source(source), [], Request(scheme="int8_convrot"))
    convert(plain, tmp_path / "plain.safetensors")
    limit = (tmp_path / "plain.safetensors").stat().st_size + 400  # a longer recipe
    prepared = planned(source, limit, rounding="learned")
    told = budget_of(prepared)
    made = convert(prepared, tmp_path / "made.safetensors")
    assert made.bytes == prepared.plan.bytes == made.out.stat().st_size <= limit
    errors = [moved(tmp_path / "made.safetensors"), moved(tmp_path / "plain.safetensors")]
    assert errors[0] < 0.88 * errors[1]
    assert told.error is not None
    assert 0.6 < told.error / errors[0] < 1.6
    by_scheme = {one.scheme: one for one in told.uniform}
    assert by_scheme["int8_convrot"].bytes == pytest.approx(limit, abs=400)
    assert told.error <= (by_scheme["int8_convrot"].error or 0)


def test_more_bytes_buy_a_smaller_error_until_nothing_is_left_to_buy(
    files: Mapping[str, Path],
) -> None:
    whole = files["flux"].stat().st_size
    plans = [planned(files["flux"], int(whole * 0.4))]
    for share in (0.5, 0.6, 0.8):
        plans.append(planned(files["flux"], int(whole * share), measured=plans[0].measured))
    errors = [budget_of(plan).error or 0.0 for plan in plans]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0
    assert all(p.plan.bytes <= (p.request.max_bytes or 0) for p in plans)
    assert len({c.scheme for c in plans[1].plan.choices}) > 2
    for way in (plan.measured for plan in plans):
        assert way is not None
        for name, tried in way.tried().items():
            assert {one.scheme for one in tried} == {"none", *FEW}, name


def test_a_budget_that_holds_everything_quantizes_nothing_and_measures_nothing(
    files: Mapping[str, Path],
) -> None:
    told: list[int] = []
    request = Request(max_bytes=files["flux"].stat().st_size + 1000)
    source = open_source(files["flux"])
    found = prepare(source, [], request, lambda done, total: told.append(done))
    assert {c.scheme for c in found.plan.choices} == {"none"}
    assert found.measured is None
    assert not told
    (line,) = found.plan.warnings
    assert "nothing to quantize" in line


def test_too_small_a_budget_is_refused_with_the_smallest_that_works(
    files: Mapping[str, Path],
) -> None:
    with pytest.raises(Refused) as refused:
        planned(files["flux"], 1_000_000)
    assert refused.value.kind == "budget-too-small"
    least = int(float(refused.value.expected.split()[2]) * 1e9)
    found = planned(files["flux"], least)
    assert 0.999 * least < found.plan.bytes <= least
    with pytest.raises(Refused, match="budget-too-small"):
        planned(files["flux"], int(0.998 * least))


def test_a_budget_goes_with_keep_dtype_a_lora_and_one_scheme(files: Mapping[str, Path]) -> None:
    whole = files["flux"].stat().st_size
    found = planned(
        files["flux"], int(0.7 * whole), files["lora"], keep=("double_blocks.0.img_mlp.*",),
        dtype="F16", scheme="int8",
    )  # fmt: skip
    by_name = {c.layer.key: c for c in found.plan.choices}
    assert {c.scheme for c in found.plan.choices} == {"none", "int8"}
    assert by_name["double_blocks.0.img_mlp.0.weight"].why.startswith("kept as asked")
    assert by_name["double_blocks.0.img_attn.qkv.weight"].dtype == "F16"
    assert "final layer" in by_name["final_layer.linear.weight"].why
    (left,) = budget_of(found).loras
    assert left.file == str(files["lora"])
    assert 0.9 < left.cosine <= 1
    assert 0.9 < left.norm_ratio < 1.2
    recipe = json.loads(found.metadata["fusequant"])
    assert recipe["max_bytes"] == int(0.7 * whole)
    assert (recipe["scheme"], recipe["candidates"]) == ("int8", ["int8"])


def test_reasons_name_the_error_the_bytes_and_what_better_would_cost(
    files: Mapping[str, Path],
) -> None:
    found = planned(files["flux"], int(0.72 * files["flux"].stat().st_size), candidates=("int8",))
    told = [c.why for c in found.plan.choices if c.scheme == "int8"]
    assert all(why.startswith("int8: 0.0") and " MB; bf16 would cost " in why for why in told)
    stayed = [c.why for c in found.plan.choices if c.why.startswith("bf16: 0.0000 at ")]
    assert stayed
    assert all("; int8: 0.0" in why for why in stayed)


def test_the_same_request_gives_the_same_plan(
    files: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = int(0.5 * files["wan"].stat().st_size)
    first = planned(files["wan"], limit)
    monkeypatch.setattr("fusequant.engine.budget.spend.WORKERS", 1)
    again = planned(files["wan"], limit)
    assert again.plan.choices == first.plan.choices
    assert budget_of(again).error == budget_of(first).error


def test_a_spec_has_no_numbers_and_the_plan_says_so() -> None:
    found = prepare(spec("flux1-dev"), [], Request(max_bytes=10_000_000_000, candidates=EVERY))
    told = budget_of(found)
    assert "bound" in told.how
    assert told.error is None
    assert found.plan.bytes <= 10_000_000_000
    assert {"int4_g128", "int8"} & {c.scheme for c in found.plan.choices}
    with pytest.raises(Refused, match="budget-too-small"):
        prepare(spec("flux1-dev"), [], Request(max_bytes=5_000_000_000, candidates=EVERY))


def test_a_model_without_a_reference_has_all_its_layers_count_alike(tmp_path: Path) -> None:
    weights = {
        f"blocks.{i}.linear.weight": torch.randn(512, 512, generator=torch.manual_seed(i))
        for i in range(4)
    }
    path = tmp_path / "other.safetensors"
    write_tensors(path, {key: weight.bfloat16() for key, weight in weights.items()})
    found = planned(path, 1_400_000)
    assert budget_of(found).error is None
    assert "counts alike" in budget_of(found).how
    assert found.plan.bytes <= 1_400_000
    assert sum(c.scheme == "none" for c in found.plan.choices) < 4


def test_codes_that_are_kept_have_no_error_in_their_weights() -> None:
    rows = torch.randn(64, 256, generator=torch.manual_seed(3))
    sample, tried = weigh.Sample(rows, torch.arange(64)), [all_schemes()["int8_weight_only"]]
    (again,) = weigh.weigh("x", sample, tried, LayerInsight(), "BF16").values()
    (kept,) = weigh.weigh(
        "x", sample, tried, LayerInsight(), "BF16", kept="int8_weight_only"
    ).values()
    assert again.error > 0.005
    assert kept.error < 1e-6
    assert kept.damage == 0


def test_measured_inputs_take_the_place_of_the_model_s_own(files: Mapping[str, Path]) -> None:
    loud = torch.ones(256)
    loud[3] = 1e6
    limit = int(0.45 * files["flux"].stat().st_size)
    layer = "double_blocks.0.img_attn.qkv"
    usual = planned(files["flux"], limit)
    found = planned(files["flux"], limit, inputs={layer: loud})
    assert "measured" in budget_of(found).how
    why = [next(c.why for c in p.plan.choices if c.layer.name == layer) for p in (usual, found)]
    assert why[0] != why[1]


@pytest.mark.parametrize("after", [0.02, 0.3, 0.55, 0.9])
def test_measuring_can_be_interrupted_at_any_time(after: float, files: Mapping[str, Path]) -> None:
    def progress(done: int, total: int) -> None:
        if done > after * total:
            raise Cancelled

    half = Request(max_bytes=files["qwen_image"].stat().st_size * 2 // 3)
    with pytest.raises(Cancelled):
        prepare(open_source(files["qwen_image"]), [], half, progress)


def test_progress_ends_at_its_total(files: Mapping[str, Path]) -> None:
    told: list[tuple[int, int]] = []
    source, half = open_source(files["flux"]), files["flux"].stat().st_size * 2 // 3
    prepare(source, [], Request(max_bytes=half), lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_each_weight_is_used_three_times_and_only_one_at_a_time() -> None:
    config = CONFIGS["flux"]
    weights, used = make_weights(config, seed=2), []
    probe(config, lambda key: weights[key].float(), used.append)
    matrices = {key.removesuffix(".weight") for key, w in weights.items() if w.dim() == 2}
    assert {name: used.count(name) for name in matrices if "_blocks." in name} == dict.fromkeys(
        (name for name in matrices if "_blocks." in name), USES
    )


def test_a_sensitivity_is_the_derivative_that_a_small_change_shows() -> None:
    config = CONFIGS["wan"]
    weights = {key: weight.float() for key, weight in make_weights(config, seed=6).items()}
    name = "blocks.1.ffn.2"
    layer = probe(config, weights.__getitem__).layers[name]
    assert layer.sensitivity is not None
    inputs = make_inputs(config, (6, 6), 16, 0, (0.8, 0.3))
    exact = quality.output(config, weights, inputs)
    size, found = 1e-3, []
    for seed in range(4):
        noise = torch.Generator().manual_seed(seed)

        def linear(x: torch.Tensor, noise: torch.Generator = noise) -> torch.Tensor:
            y = torch.nn.functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
            return y + size * torch.randn(y.shape, generator=noise)

        moved = quality.output(config, weights, inputs, {name: linear})
        found.append(quality.output_error(exact, moved).relative_error ** 2 / size**2)
    assert float(layer.sensitivity.sum()) == pytest.approx(sum(found) / len(found), rel=0.15)


def test_a_caller_in_inference_mode_learns_the_same() -> None:
    config = FluxConfig(256, 1, 0)
    weights = {key: weight.float() for key, weight in make_weights(config, seed=3).items()}
    usual = probe(config, weights.__getitem__).layers
    with torch.inference_mode():
        made_here = {key: weight.clone() for key, weight in weights.items()}
        found = probe(config, made_here.__getitem__).layers
    for name, layer in usual.items():
        assert layer.sensitivity is not None
        assert found[name].sensitivity is not None
        torch.testing.assert_close(found[name].sensitivity, layer.sensitivity)


def test_a_lora_that_is_lost_counts_and_one_that_is_kept_does_not() -> None:
    rows = torch.randn(128, 256, generator=torch.manual_seed(1))
    delta = 0.05 * torch.randn(128, 256, generator=torch.manual_seed(2))
    sample = weigh.Sample(rows, torch.arange(128), (("a", delta), ("b", 4 * delta)))
    schemes = [all_schemes()[name] for name in ("int8", "int4_g128")]
    found = weigh.weigh("x", sample, schemes, LayerInsight(), "BF16")
    for name, scheme in zip(found, schemes, strict=True):
        made = scheme.quantize(rows)
        error = scheme.dequantize(made, scheme.config(128, 256)) - rows
        damage = 0.0
        for (path, left), (_, d) in zip(found[name].loras, sample.deltas, strict=True):
            after = d + error
            cosine = float(torch.nn.functional.cosine_similarity(d.flatten(), after.flatten(), 0))
            assert left.cosine == pytest.approx(cosine, abs=1e-4), path
            assert left.norm_ratio == pytest.approx(float(after.norm() / d.norm()), rel=1e-4)
            damage += float(d.norm() / rows.norm()) ** 2 * (1 - cosine**2)
        assert found[name].damage == pytest.approx(damage, rel=1e-3, abs=1e-9)
    assert found["int8"].loras[0][1].cosine > 0.98
    assert found["int4_g128"].loras[0][1].cosine < 0.7
    assert found["int4_g128"].loras[1][1].cosine > found["int4_g128"].loras[0][1].cosine


def test_a_damaged_weight_is_named(tmp_path: Path) -> None:
    weights = {f"blocks.{i}.linear.weight": torch.randn(256, 256) for i in range(2)}
    weights["blocks.1.linear.weight"][0, 7] = float("nan")
    write_tensors(tmp_path / "nan", {k: w.bfloat16() for k, w in weights.items()})
    with pytest.raises(Refused, match="non-finite") as refused:
        planned(tmp_path / "nan", 150_000)
    assert refused.value.layer == "blocks.1.linear"


def test_who_reads_a_file_decides_what_may_be_in_it() -> None:
    theirs = readable(COMFYUI)
    assert {"int8_convrot", "fp8", "int8"} <= set(theirs)
    assert not {"none", "fp8_row", "fp8_block128", "int8_weight_only"} & set(theirs)
    assert {"fp8_row", "int4_g128", "int8_weight_only"} <= set(readable(FUSEQUANT))
    assert "fp8" not in readable(FUSEQUANT, "mps")


def test_a_sample_is_all_of_a_small_layer_and_a_spread_of_a_large_one() -> None:
    assert list(weigh.runs(300, 256)) == [(0, 300)]
    spans = list(weigh.runs(20_000, 3072))
    rows = sum(stop - start for start, stop in spans)
    assert 600 < rows < 800
    assert spans[0][0] == 0
    assert spans[-1][1] == 20_000
