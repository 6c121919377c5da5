"""Every discovered scheme: error bound, pieces, runs of rows, zero rows, dtypes, refusals."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from fusequant.engine.errors import Refused
from fusequant.engine.scheme import Scheme
from fusequant.engine.scheme_names import resolve, schemes
from fusequant.engine.tensors import dtype_name, torch_dtype
from fusequant.kernels.registry import NoBackend, backends, refusal, use_backend

SCHEMES = schemes()
QUANTIZED = {name: scheme for name, scheme in SCHEMES.items() if scheme.format_id}
N, K = 300, 512
# how far a layer is from its dequantized weight where activations have four bits too
FOUR_BIT_INPUTS = {"nvfp4": 0.12, "w4a4_convrot": 0.16}
every = pytest.mark.parametrize("name", SCHEMES)
quantized = pytest.mark.parametrize("name", QUANTIZED)


def weight(rows: int = N, k: int = K, dtype: str = "F32") -> torch.Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(3)).to(torch_dtype(dtype))


def values(scheme: Scheme, tensors: dict[str, torch.Tensor], k: int = K) -> torch.Tensor:
    return scheme.dequantize(tensors, scheme.config(N, k))


def same(got: torch.Tensor, want: torch.Tensor) -> bool:
    return torch.equal(got.reshape(-1).view(torch.uint8), want.reshape(-1).view(torch.uint8))


@every
@pytest.mark.parametrize("dtype", ("BF16", "F16", "F32"))
def test_the_error_keeps_its_bound_and_the_pieces_are_as_told(name: str, dtype: str) -> None:
    scheme, source = SCHEMES[name], weight(dtype=dtype)
    stored = scheme.quantize(source, None, dtype)
    pieces = scheme.pieces(N, K, dtype)
    assert {r: (dtype_name(t.dtype), tuple(t.shape)) for r, t in stored.items()} == {
        role: (piece.dtype, piece.shape) for role, piece in pieces.items()
    }
    assert next(piece.suffix for piece in pieces.values()) == ".weight"
    got = values(scheme, stored)
    assert got.dtype == torch.float32
    error = (got - source.float()).norm() / source.float().norm()
    assert error <= scheme.worst_error
    assert error >= 0.5 * scheme.worst_error or name == "none"  # a bound that says something
    bits = sum(t.numel() * t.element_size() * 8 for t in stored.values()) / (N * K)
    assert bits == pytest.approx(scheme.bits, rel=0.15) or name == "none"


@every
def test_runs_of_rows_give_what_the_whole_weight_gives(name: str) -> None:
    """A converter quantizes a few rows at a time, from another dtype's view of them."""
    scheme, source = SCHEMES[name], weight(dtype="BF16")
    step = scheme.row_step * (1 if scheme.row_step > 1 else 77)
    ends = [*range(step, N - scheme.row_step + 1, step), N]
    spans = list(zip([0, *ends], ends, strict=False))
    known = None
    if scheme.survey is not None:
        known = scheme.survey.run(lambda start, stop: source[start:stop], N, K, spans)
    whole = scheme.quantize(source, None, "BF16")
    runs = [scheme.quantize(source[start:stop], known, "BF16") for start, stop in spans]
    assert len(runs) > 1
    for role, want in whole.items():
        axis = scheme.row_axis.get(role)
        got = runs[0][role] if axis is None else torch.cat([run[role] for run in runs], axis)
        # a rotation is a matrix product, whose last bit may depend on the number of rows
        close = (got.float() - want.float()).abs().max() <= (1 if role == "weight" else 1e-6)
        assert close if name == "int8_convrot" else same(got, want)


@every
def test_float32_copies_of_the_source_give_the_same_numbers(name: str) -> None:
    scheme, source = SCHEMES[name], weight(dtype="BF16")
    narrow, wide = (scheme.quantize(w, None, "BF16") for w in (source, source.float()))
    assert all(same(narrow[role], wide[role]) for role in wide)


@every
def test_zero_rows_stay_zero_and_a_zero_weight_has_finite_scales(name: str) -> None:
    scheme, source = SCHEMES[name], weight()
    source[5] = 0.0
    assert values(scheme, scheme.quantize(source))[5].abs().max() == 0.0
    stored = scheme.quantize(torch.zeros(N, K))
    assert all(t.float().isfinite().all() for t in stored.values())
    assert values(scheme, stored).abs().max() == 0.0
    assert scheme.quantize(torch.zeros(0, K))["weight"].shape[0] == 0


@every
def test_tiny_and_huge_weights_survive(name: str) -> None:
    scheme = SCHEMES[name]
    for size in (1e-3, 1e4):
        source = weight() * size
        got = values(scheme, scheme.quantize(source))
        assert (got - source).norm() <= 1.2 * max(scheme.worst_error, 0.004) * source.norm()


@quantized
def test_what_is_not_finite_is_told(name: str) -> None:
    scheme, source = SCHEMES[name], weight()
    source[9, 100] = torch.nan
    assert scheme.finite(scheme.quantize(weight()))
    assert not scheme.finite(scheme.quantize(source))
    source[9, 100] = -torch.inf
    assert not scheme.finite(scheme.quantize(source))


@every
def test_the_layer_is_x_times_the_dequantized_weight(name: str) -> None:
    scheme, source = SCHEMES[name], weight()
    stored, settings = scheme.quantize(source), scheme.config(N, K)
    x, bias = torch.randn(2, 9, K).bfloat16(), torch.randn(N).bfloat16()
    want = x.float() @ scheme.dequantize(stored, settings).T + bias.float()
    for backend in backends():
        if refusal(backend) or backend == "kitchen":
            continue
        try:
            with use_backend(backend):
                got = scheme.linear(x, stored, settings, bias)
        except NoBackend:
            continue  # the ops' own tests see to it that a claim is a claim
        assert (got.dtype, got.shape) == (x.dtype, want.shape)
        assert (got.float() - want).norm() <= FOUR_BIT_INPUTS.get(name, 0.03) * want.norm()


@pytest.mark.parametrize(
    "name",
    (
        "fp8",
        "fp8_e5m2",
        "fp8_row",
        "int8",
        "int8_convrot",
        "mxfp8",
        "nvfp4",
        "w4a8",
        "w4a4_convrot",
    ),
)
def test_a_file_may_ask_for_activations_as_they_are(name: str) -> None:
    scheme, x = SCHEMES[name], torch.randn(9, K)
    stored = scheme.quantize(weight())
    settings = {**scheme.config(N, K), "full_precision_matrix_mult": True}
    want = x @ scheme.dequantize(stored, settings).T
    with use_backend("reference"):
        got = scheme.linear(x, stored, settings, None)
    assert (got - want).norm() <= 1e-5 * want.norm()


@pytest.mark.parametrize("name", ("fp8", "fp8_e5m2", "fp8_row", "int8", "int8_weight_only"))
@pytest.mark.parametrize("dtype", ("F32", "BF16", "F16"))
def test_every_shape_of_a_scale_reads_the_same(name: str, dtype: str) -> None:
    scheme = SCHEMES[name]
    stored = scheme.quantize(weight())
    scale = stored["scale"].to(torch_dtype(dtype))
    per_row = (-1,), (-1, 1), (1, -1)
    one = (), (1,), (1, 1)
    want = stored["weight"].float() * scale.float().reshape(-1, 1)
    for shape in one if scale.numel() == 1 else per_row:
        got = scheme.dequantize({**stored, "scale": scale.reshape(shape)}, {})
        assert same(got, want)
    one_for_all = torch.tensor([0.25]).to(torch_dtype(dtype))
    got = scheme.dequantize({**stored, "scale": one_for_all}, {})
    assert same(got, stored["weight"].float() * 0.25)


@pytest.mark.parametrize(
    ("name", "change", "kind"),
    (
        ("int8", {"scale": None}, "scale-missing"),
        ("int8", {"scale": torch.ones(7)}, "scale-shape"),
        ("fp8_row", {"scale": torch.ones(N, 2)}, "scale-shape"),
        ("fp8_block128", {"scale": torch.ones(N, 1)}, "scale-shape"),
        ("int4_g128", {"scale": torch.ones(N, 4)}, "scale-shape"),
        ("int4_g128", {"zeros": torch.ones(1)}, "scale-shape"),
        ("int4_g128", {"group_size": 100}, "group-size"),
        ("int4_g128", {"group_size": "128"}, "group-size"),
        ("int8_convrot", {"convrot_groupsize": 32}, "group-size"),
        ("int8_convrot", {"convrot_groupsize": 1024}, "group-size"),
        ("w4a4_convrot", {"convrot_groupsize": 100}, "group-size"),
        ("w4a4_convrot", {"scale": torch.ones(7)}, "scale-shape"),
        ("w4a8", {"convrot_groupsize": 1024}, "group-size"),
        ("w4a8", {"channel": None}, "scale-missing"),
        ("mxfp8", {"scale": None}, "scale-missing"),
        ("nvfp4", {"scale_2": None}, "scale-missing"),
    ),
)
def test_what_does_not_belong_together_is_refused(
    name: str, change: dict[str, Any], kind: str
) -> None:
    scheme = SCHEMES[name]
    stored: dict[str, torch.Tensor] = dict(scheme.quantize(weight()))
    settings = dict(scheme.config(N, K))
    for key, value in change.items():
        (settings if "group" in key else stored)[key] = value
    stored = {role: tensor for role, tensor in stored.items() if tensor is not None}
    for call in (
        lambda: scheme.dequantize(stored, settings),
        lambda: scheme.linear(torch.ones(2, K), stored, settings, None),
    ):
        with pytest.raises(Refused) as refused:
            call()
        assert refused.value.kind == kind


@pytest.mark.parametrize(
    ("name", "k"),
    (
        ("int4_g128", 320), ("int8_convrot", 40), ("w4a4_convrot", 96), ("w4a8", 40),
        ("nvfp4", 15), ("mxfp8", 31),
    ),
)  # fmt: skip
def test_a_shape_that_a_scheme_does_not_take_is_refused_beforehand(name: str, k: int) -> None:
    reason = SCHEMES[name].refuses(N, k)
    assert reason
    with pytest.raises(Refused, match=reason):
        SCHEMES[name].quantize(torch.ones(N, k))
    assert SCHEMES[name].refuses(N, K) is None


@pytest.mark.parametrize(("k", "size"), ((512, 256), (3072, 256), (320, 64), (48, 16), (40, None)))
def test_the_rotation_takes_the_largest_group_that_fits(k: int, size: int | None) -> None:
    scheme = SCHEMES["int8_convrot"]
    assert scheme.config(N, k) == {"convrot": True, "convrot_groupsize": size}
    if size:
        stored = scheme.quantize(weight(k=k))
        error = (values(scheme, stored, k) - weight(k=k)).norm() / weight(k=k).norm()
        assert error <= scheme.worst_error


CORE = {
    "fp8": ("TensorCoreFP8Layout", {}),
    "fp8_e5m2": ("TensorCoreFP8Layout", {}),
    "int8": ("TensorWiseINT8Layout", {}),
    "int8_weight_only": ("TensorWiseINT8Layout", {}),
    "int8_convrot": ("TensorWiseINT8Layout", {"convrot": True, "convrot_groupsize": 256}),
    "int4_g128": ("TensorCoreAWQW4A16Layout", {"group_size": 128}),
}


@pytest.mark.parametrize("name", CORE)
def test_core_reads_the_same_float32_numbers(name: str) -> None:
    tensor = pytest.importorskip("comfy_kitchen.tensor")
    scheme, (layout, settings) = SCHEMES[name], CORE[name]
    stored = scheme.quantize(weight())
    cls = getattr(tensor, layout)
    params = {"scale": stored["scale"], "orig_dtype": torch.float32, "orig_shape": (N, K)}
    extra = {"zeros": stored["zeros"]} if "zeros" in stored else {}
    read = cls.dequantize(stored["weight"], cls.Params(**params, **settings, **extra))
    assert same(values(scheme, stored), read.float())


NAMES = {
    "fp8-vllm": ("fp8_row", "vllm"),
    "fp8-sgl": ("fp8_row", "sgl"),
    "fp8-q8f": ("fp8_row", "q8f"),
    "fp8-b128-deepgemm": ("fp8_block128", "deepgemm"),
    "int8-vllm": ("int8", "vllm"),
    "int8-sgl": ("int8", "sgl"),
    "int8-q8f": ("int8", "q8f"),
    "int8-torchao": ("int8", "torchao"),
    "int4-g128-marlin": ("int4_g128", "marlin"),
    "FP8_Scaled": ("fp8", None),
    "DiffSynth FP8": ("fp8", None),
    "8-bit": ("int8_weight_only", None),
    "4-bit": ("int4_g128", None),
    "BF16 original": ("none", None),
    " INT8 convrot ": ("int8_convrot", None),
}


@pytest.mark.parametrize("spelled", NAMES)
def test_other_tools_names_are_a_scheme_and_a_backend(spelled: str) -> None:
    assert resolve(spelled) == NAMES[spelled]


def test_a_name_that_nobody_has_is_refused_with_the_near_ones_first() -> None:
    assert all(resolve(name) == (name, None) for name in SCHEMES)
    with pytest.raises(Refused) as refused:
        resolve("fp8_rwo")
    assert refused.value.kind == "unknown-scheme"
    assert refused.value.expected.startswith("one of fp8_row, ")
    assert all(name in refused.value.expected for name in SCHEMES)


def test_planning_with_a_scheme_needs_no_torch() -> None:
    code = (
        "import sys; from fusequant.engine.scheme_names import resolve, schemes\n"
        "resolve('fp8-sgl'); [s.pieces(256, 256, 'BF16') for s in schemes().values()]\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_scheme_is_a_fact() -> None:
    assert replace(SCHEMES["int8"], name="mine").format_id == "int8_tensorwise"
