"""Each fault that stock ComfyUI accepts: a file that has it, and a sibling that has not."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch
from safetensors.torch import save_file

from fusequant.engine.errors import Refused
from fusequant.engine.files.open import open_source
from fusequant.engine.problem_kinds import KINDS
from fusequant.engine.read import examine, read

from . import faults_blocks, problems_core, tool_faults

E4M3, E5M2, E8M0 = torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu
Tensors = dict[str, torch.Tensor]
N, K = 192, 256
FP8, FP8_2 = torch.ones(N, K).to(E4M3), torch.ones(N, K).to(E5M2)
INT8, BF16 = torch.ones(N, K, dtype=torch.int8), torch.ones(N, K, dtype=torch.bfloat16)
TENSOR, ROWS = torch.tensor(0.5), torch.full((N, 1), 0.5)
MARK0, MARK2 = {"scaled_fp8": torch.zeros(0).to(E4M3)}, {"scaled_fp8": torch.zeros(2).to(E4M3)}


def layer(weight: torch.Tensor | None, **beside: torch.Tensor) -> Tensors:
    found = {"a.weight": weight, **{f"a.{leaf}": tensor for leaf, tensor in beside.items()}}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def marked(weight: torch.Tensor | None, scale: torch.Tensor | None, **config: object) -> Tensors:
    data = torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)
    return layer(weight, weight_scale=scale, comfy_quant=data)


def fp8(weight: torch.Tensor | None, scale: torch.Tensor | None) -> Tensors:
    return marked(weight, scale, format="float8_e4m3fn")


def int8(weight: torch.Tensor, scale: torch.Tensor | None, **config: object) -> Tensors:
    return marked(weight, scale, format="int8_tensorwise", **config)


def rows_with(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    scale = ROWS.clone()
    scale[7] = value
    return scale.to(dtype)


def int4(zeros: float, shape: tuple[int, int] = (2, N)) -> Tensors:
    found = marked(INT8[:, :128], torch.ones(shape).half(), format="awq_w4a16", group_size=128)
    return found | {"a.weight_zeros": torch.full(shape, zeros).half()}


HEALTHY_CORE, HEALTHY_INT8 = fp8(FP8, TENSOR), int8(INT8, ROWS)
UNMARKED = layer(INT8, weight_scale=ROWS)
BLOCKS = layer(FP8, weight_scale=torch.ones(2, 2))
STRAY = {"b.comfy_quant": HEALTHY_CORE["a.comfy_quant"]}
LEGACY = layer(FP8, scale_weight=TENSOR) | MARK0

# kind: [(a file that has the fault, its healthy sibling)]
FAULTS: dict[str, list[tuple[Tensors, Tensors]]] = {
    "int8-without-scale": [(int8(INT8, None), HEALTHY_INT8), (layer(INT8) | MARK2, LEGACY)],
    "scale-not-finite": [
        (fp8(FP8, torch.tensor(math.nan)), HEALTHY_CORE),
        (fp8(FP8, torch.tensor(-math.inf)), HEALTHY_CORE),
        (int8(INT8, rows_with(math.inf)), HEALTHY_INT8),
        (layer(INT8, weight_scale=rows_with(math.nan, torch.bfloat16)), UNMARKED),
        (layer(FP8, scale_weight=torch.tensor(math.inf).half()) | MARK0, LEGACY),
    ],
    "scale-zero": [
        (fp8(FP8, torch.tensor(0.0)), HEALTHY_CORE),
        (int8(INT8, rows_with(-0.0)), HEALTHY_INT8),
    ],
    "scale-negative": [(int8(INT8, rows_with(-1.0)), HEALTHY_INT8)],
    "scale-per-column": [(int8(INT8, torch.ones(1, K)), HEALTHY_INT8)],
    "scale-transposed": [
        (int8(INT8, torch.ones(1, N)), HEALTHY_INT8),
        (int8(INT8[:, :N], torch.ones(1, N)), HEALTHY_INT8),
    ],
    "scale-one-dimension": [(int8(INT8, torch.ones(N)), HEALTHY_INT8)],
    "scale-shape": [
        (int8(INT8, torch.ones(5)), HEALTHY_INT8),
        (int4(0.0, (3, N)), int4(0.0)),
    ],
    "scale-dtype": [(fp8(FP8, torch.tensor(1)), HEALTHY_CORE)],
    "scale-of-other-format": [(fp8(FP8, ROWS), HEALTHY_CORE)],
    "e5m2-row-scale": [(layer(FP8_2, weight_scale=ROWS), layer(FP8, weight_scale=ROWS))],
    "float8-marker-on-int8": [(fp8(INT8, TENSOR), HEALTHY_CORE)],
    "int8-marker-on-float8": [(int8(FP8, TENSOR), HEALTHY_INT8)],
    "marker-on-float": [(fp8(BF16, TENSOR), HEALTHY_CORE), (int8(BF16, ROWS), HEALTHY_INT8)],
    "marker-without-layer": [(HEALTHY_CORE | STRAY, HEALTHY_CORE)],
    "marker-without-scales": [
        (layer(FP8) | MARK0, LEGACY), (layer(BF16) | MARK2, LEGACY), (fp8(FP8, None), HEALTHY_CORE),
    ],
    "marker-not-json": [(layer(FP8, comfy_quant=torch.ones(4, dtype=torch.uint8)), HEALTHY_CORE)],
    "marker-without-format": [(marked(INT8, ROWS, per_row=True), HEALTHY_INT8)],
    "e5m2-under-e4m3": [
        (layer(FP8_2, scale_weight=TENSOR) | MARK2, LEGACY), (fp8(FP8_2, TENSOR), HEALTHY_CORE),
    ],
    "e4m3-under-e5m2": [
        (marked(FP8, TENSOR, format="float8_e5m2"), marked(FP8_2, TENSOR, format="float8_e5m2"))
    ],
    "fp8-marker-on-int8-file": [(layer(INT8, scale_weight=TENSOR) | MARK2, LEGACY)],
    "scale-without-marker": [
        (UNMARKED, HEALTHY_INT8),
        (layer(FP8, scale_weight=TENSOR), LEGACY),
        (layer(FP8, weight_scale=TENSOR) | MARK0, LEGACY),
    ],
    "scales-differ": [
        (LEGACY | {"a.weight_scale": TENSOR * 2}, LEGACY | {"a.weight_scale": TENSOR}),
    ],
    "scale-twice": [(LEGACY | {"a.weight_scale": TENSOR}, LEGACY)],
    "scale-e8m0": [(layer(FP8, weight_scale=torch.ones(2, 2).to(E8M0)), BLOCKS)],
    "scale-not-float32": [(layer(FP8, scale_weight=TENSOR.bfloat16()) | MARK2, LEGACY)],
    "fp8-without-scale": [(LEGACY | {"b.weight": FP8}, LEGACY)],
    "orphan-scale": [
        (layer(BF16, weight_scale=TENSOR), layer(BF16)),
        (LEGACY | {"b.scale_weight": TENSOR}, LEGACY),
        (HEALTHY_CORE | {"b.weight_scale": TENSOR}, HEALTHY_CORE),
    ],
    "small-layer-quantized": [(fp8(FP8[:64], TENSOR), HEALTHY_CORE)],
    "maybe-rotated": [
        ({f"model.diffusion_model.{name}": x for name, x in UNMARKED.items()}, UNMARKED)
    ],
    "convrot-groupsize": [
        (
            int8(INT8, ROWS, convrot=True, convrot_groupsize=size),
            int8(INT8, ROWS, convrot=True, convrot_groupsize=64),
        )
        for size in (0, 2, 128, 1024, "256")
    ],
    "rotated-float8": [(int8(FP8, TENSOR, convrot=True), int8(INT8, ROWS, convrot=True))],
    "block-size": [
        (layer(INT8, weight_scale=torch.ones(2, 2)), UNMARKED),
        (layer(FP8, weight_scale=torch.ones(3, 4)), BLOCKS),
    ],
    "codes-shape": [(marked(INT8[0], ROWS, format="awq_w4a16", group_size=128), int4(0.0))],
    **problems_core.FAULTS,
}  # fmt: skip
TABLES = (FAULTS, tool_faults.FAULTS, faults_blocks.FAULTS)
CASES = [(kind, *pair) for table in TABLES for kind, pairs in table.items() for pair in pairs]


@pytest.fixture
def opened(tmp_path):
    found = []

    def make(tensors: Tensors):
        path = tmp_path / f"model-{len(found)}.safetensors"
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path)
        found.append(open_source(path))
        return found[-1]

    yield make
    for source in found:
        source.close()


def kinds(source) -> set[str]:
    return {problem.kind for problem in examine(source).problems}


@pytest.mark.parametrize(("kind", "sick", "healthy"), CASES)
def test_a_fault_is_named_and_its_sibling_is_clean(kind, sick, healthy, opened):
    assert kind in kinds(opened(sick))
    assert kind not in kinds(opened(healthy))


@pytest.mark.parametrize(("kind", "sick", "healthy"), CASES)
def test_unknowable_numbers_are_refused_others_are_read(kind, sick, healthy, opened):
    source = opened(sick)
    if KINDS[kind].refuses:
        with pytest.raises(Refused) as refusal:
            read(source)
        assert KINDS[refusal.value.kind].refuses
        return
    told = next(problem for problem in read(source).problems if problem.kind == kind)
    assert told.found and told.expected and told.fix


def test_every_fault_of_a_format_has_a_case():
    of_inspect = {
        "not-finite", "no-core-format", "needs-newer-core", "vision-quantized", "clip-quantized",
        "several-files", "family-unknown", "names-not-core", "other-tool",
        "gguf-type",  # no safetensors file can have it: see test_gguf
    }  # fmt: skip
    assert {kind for table in TABLES for kind in table} == set(KINDS) - of_inspect


@pytest.mark.parametrize(
    "tensors", [HEALTHY_CORE, HEALTHY_INT8, LEGACY, layer(BF16), layer(FP8), int4(0.0)]
)
def test_healthy_files_have_no_problems(tensors, opened):
    assert kinds(opened(tensors)) == set()


def test_the_layer_is_named(opened):
    problem = examine(opened(int8(INT8, rows_with(math.nan)))).problems[0]
    assert (problem.kind, problem.layer) == ("scale-not-finite", "a")
    assert "1 of 192" in problem.found


def test_the_same_fault_in_many_layers_is_told_once(opened):
    many = {
        f"blocks.{at}.{leaf}": tensor
        for at in range(20)
        for leaf, tensor in (("weight", INT8), ("weight_scale", ROWS))
    }
    problems = examine(opened(many)).problems
    assert [problem.kind for problem in problems] == ["scale-without-marker"]
    assert "19 other layers" in problems[0].found


def test_the_dtype_decides_the_scheme_not_the_marker(opened):
    for tensors, scheme in ((fp8(INT8, TENSOR), "int8"), (int8(FP8, TENSOR), "fp8")):
        assert read(opened(tensors)).layers[0].scheme == scheme


def test_a_marker_on_plain_numbers_is_left_out(opened):
    contents = read(opened(fp8(BF16, TENSOR)))
    assert [layer.scheme for layer in contents.layers] == ["none"]
    assert sorted(contents.ignored) == ["a.comfy_quant", "a.weight_scale"]


def test_rows_of_scales_are_checked_fast(opened):
    """A 14B model has about three million row scales; reading them must not take long."""
    scale = torch.full((1_000_000, 1), 0.5)
    source = opened(
        {"a.weight": torch.ones(1_000_000, 1, dtype=torch.int8), "a.weight_scale": scale}
    )
    started = time.perf_counter()
    read(source)
    assert time.perf_counter() - started < 1.0
