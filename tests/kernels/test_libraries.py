"""Calls into libraries that need a GPU, against their recorded signatures and stated layouts.

A stand-in takes the place of the library: it accepts what the recorded signature accepts, checks
what the library's documentation asks of its tensors, and computes the formula in float32.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fusequant.engine.codecs import marlin_int4
from fusequant.kernels import ops, registry
from fusequant.kernels.backends import _trial
from fusequant.kernels.registry import SIGNATURE, backends, use_backend

Tensor = torch.Tensor
E4M3 = torch.float8_e4m3fn
RECORDED = Path(__file__).with_name("signatures")
NAMES = sorted(path.stem for path in RECORDED.glob("*.json"))


def scaled_product(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, dtype: torch.dtype, bias: Any = None
) -> Tensor:
    """CUTLASS's contract: b is (K, N) with K next to K, one float32 scale a row, halves out."""
    assert a.dtype == b.dtype and a.dtype in (torch.int8, E4M3)
    assert a.is_contiguous() and b.stride(0) == 1 and a.shape[1] == b.shape[0]
    assert a.shape[1] % 16 == 0 and b.shape[1] % 16 == 0
    assert scale_a.dtype == scale_b.dtype == torch.float32
    assert scale_a.shape == (a.shape[0], 1) and scale_b.shape == (b.shape[1], 1)
    assert scale_a.is_contiguous() and scale_b.is_contiguous()
    assert dtype in (torch.bfloat16, torch.float16) and (bias is None or bias.dtype == dtype)
    sums = (a.float() @ b.float()) * scale_a * scale_b.T
    return (sums if bias is None else sums + bias.float()).to(dtype)


def rows_of(x: Tensor, top: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    scale = x.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / top
    scaled = x.float() / scale
    return (scaled.round() if dtype == torch.int8 else scaled.clamp(-top, top)).to(dtype), scale


def vllm() -> dict[str, Callable[..., Any]]:
    def scaled_fp8_quant(
        input: Tensor, scale: None, num_token_padding: None, scale_ub: None,
        use_per_token_if_dynamic: bool, output: None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        assert input.ndim == 2 and scale is None and use_per_token_if_dynamic
        return rows_of(input, 448.0, E4M3)

    def scaled_int8_quant(
        input: Tensor, scale: None, azp: None, symmetric: bool
    ) -> tuple[Tensor, Tensor, None]:
        assert input.is_contiguous() and scale is None and azp is None and symmetric
        return (*rows_of(input, 127.0, torch.int8), None)

    return {
        "cutlass_scaled_mm": scaled_product,
        "scaled_fp8_quant": scaled_fp8_quant,
        "scaled_int8_quant": scaled_int8_quant,
    }


def sgl() -> dict[str, Callable[..., Any]]:
    def sgl_per_token_quant_fp8(input: Tensor, output_q: Tensor, output_s: Tensor) -> None:
        codes, scale = rows_of(input, 448.0, E4M3)
        assert (output_q.dtype, output_s.shape) == (E4M3, scale.shape)
        output_q.copy_(codes)
        output_s.copy_(scale)

    return {
        "int8_scaled_mm": scaled_product,
        "fp8_scaled_mm": scaled_product,
        "sgl_per_token_quant_fp8": sgl_per_token_quant_fp8,
    }


def q8f() -> dict[str, Callable[..., Any]]:
    def linear(
        a: Tensor, b: Tensor, bias: Any, scale_a: Tensor, scale_b: Tensor, extra: Any, dtype: Any
    ) -> Tensor:
        assert a.dtype == b.dtype and not extra and b.is_contiguous()
        assert bias is None or bias.dtype == torch.float32
        assert (scale_a.shape, scale_b.shape) == (a.shape[:1], b.shape[:1])
        sums = (a.float() @ b.float().T) * scale_a[:, None] * scale_b
        return (sums if bias is None else sums + bias).to(dtype)[None]

    return {"q8_linear": linear, "fp8_linear": linear}


def deepgemm() -> dict[str, Callable[..., Any]]:
    def product(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], d: Tensor, *more: Any) -> None:
        (x, sx), (weight, scale) = a, b
        assert x.dtype == weight.dtype == E4M3 and d.dtype == torch.bfloat16
        assert all(t.is_contiguous() for t in (x, weight, scale, d))
        assert sx.dtype == scale.dtype == torch.float32
        assert sx.shape == (x.shape[0], x.shape[1] // 128)
        assert scale.shape == (weight.shape[0] // 128, weight.shape[1] // 128)
        wide = weight.float() * scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
        d.copy_((x.float() * sx.repeat_interleave(128, 1)) @ wide.T)

    return {"fp8_gemm_nt": product, "gemm_fp8_fp8_bf16_nt": product}


def marlin() -> dict[str, Callable[..., Any]]:
    def mul(a: Tensor, b: Tensor, c: Tensor, s: Tensor, workspace: Tensor, *more: Any) -> None:
        """The words are read by the code that reads Marlin's files."""
        outputs = b.shape[1] // 2
        assert (a.dtype, c.dtype, s.dtype) == (torch.float16,) * 3
        assert b.dtype == workspace.dtype == torch.int32 and not workspace.any()
        assert b.shape[0] * 16 == a.shape[1] and workspace.numel() >= outputs // 128 * 8
        assert all(t.is_contiguous() for t in (a, b, c, s)) and outputs % 256 == 0
        scale = marlin_int4.scales_of(s, one_group=s.shape[0] == 1).float()
        wide = (marlin_int4.codes_of(b).float() - 8) * scale.repeat_interleave(128, 1)
        c.copy_(a.float() @ wide.T)

    return {"mul": mul}


FORMULAS = {"vllm": vllm, "sgl": sgl, "q8f": q8f, "deepgemm": deepgemm, "marlin": marlin}


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))
    return found


def signature(names: list[str]) -> inspect.Signature:
    """`bias=` is one that may be left out."""
    kind, required = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    return inspect.Signature(
        inspect.Parameter(n.rstrip("="), kind, default=None if n.endswith("=") else required)
        for n in names
    )


def bound(names: list[str], formula: Callable[..., Any], told: list[str]) -> Callable[..., Any]:
    """What takes a call only as the signature allows it."""
    shape, name = signature(names), formula.__name__

    def call(*given: Any, **named: Any) -> Any:
        taken = shape.bind(*given, **named)
        taken.apply_defaults()
        told.append(name)
        return formula(*taken.args)

    return call


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """stand_in(library, without) puts a module of the recorded functions in its place."""

    def put(name: str, *without: str) -> list[str]:
        told: list[str] = []
        facts, formulas = recorded(name), FORMULAS[name]()
        parts = facts["module"].split(".")
        for count in range(1, len(parts) + 1):
            package = ModuleType(".".join(parts[:count]))
            package.__path__ = []  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, package.__name__, package)
        for function, names in facts["functions"].items():
            if function not in without:
                setattr(package, function, bound(names, formulas[function], told))
        return told

    return put


def linear_of(name: str, op: str) -> Callable[..., Tensor]:
    module = importlib.import_module(f"fusequant.kernels.backends.{name}")
    found: Callable[..., Tensor] = getattr(module, op)
    return found


CLAIMED = [(name, claim.op) for name in NAMES for claim in backends()[name].claims]
QUANTIZE = {
    "int8_linear": ops.quantize_int8,
    "fp8_row_linear": ops.quantize_fp8_row,
    "fp8_block128_linear": ops.quantize_fp8_block128,
    "int4_linear": ops.quantize_int4,
}


def arguments(op: str, weight: Tensor) -> dict[str, Any]:
    """The stored tensors of a weight as the op has them."""
    with use_backend("reference"):
        codes, scale = QUANTIZE[op](weight)
    made: dict[str, Any] = {"weight": codes, "scale": scale}
    if op == "int4_linear":
        made |= {"zeros": torch.randn(scale.shape).mul(0.1).to(scale.dtype), "group_size": 128}
    return made


@pytest.mark.parametrize("with_bias", (True, False))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize(("name", "op"), CLAIMED)
def test_a_call_fits_the_recorded_signature_and_gives_the_reference_s_product(
    name: str, op: str, dtype: torch.dtype, with_bias: bool, stand_in: Callable[..., list[str]]
) -> None:
    told = stand_in(name)
    dtype = torch.float16 if name == "marlin" else dtype
    x, bias = torch.randn(5, 384).to(dtype), torch.randn(256) if with_bias else None
    call = arguments(op, torch.randn(256, 384) * torch.logspace(-1, 1, 256)[:, None])
    want = linear_of("reference", op)(x=x, bias=bias, **call).float()
    got = linear_of(name, op)(x=x, bias=bias, **call)
    assert told and (got.dtype, got.shape) == (dtype, want.shape)
    error = next(claim.error for claim in backends()[name].claims if claim.op == op)
    assert error is not None and (got.float() - want).norm() <= error * want.norm()


@pytest.mark.parametrize("inputs", (128, 256))
def test_marlin_s_order_is_read_back_to_our_codes(inputs: int) -> None:
    """128 inputs are one group, whose scales have an order of their own."""
    module = importlib.import_module("fusequant.kernels.backends.marlin")
    codes, scale = ops.quantize_int4(torch.randn(256, inputs), 128, torch.float16)
    bytes_ = codes.view(torch.uint8)
    ours = torch.stack((bytes_ & 15, bytes_ >> 4), -1).reshape(256, inputs)
    assert torch.equal(marlin_int4.codes_of(module.packed(codes)), ours)
    stored = module.ordered(scale)
    assert torch.equal(marlin_int4.scales_of(stored, one_group=inputs == 128), scale.t())


@pytest.mark.parametrize("name", [name for name, op in CLAIMED if op == "int8_linear"])
def test_one_scale_for_all_rows_is_spread(name: str, stand_in: Callable[..., list[str]]) -> None:
    stand_in(name)
    codes = torch.randint(-127, 127, (32, 64), dtype=torch.int8)
    x, one = torch.randn(5, 64).bfloat16(), torch.tensor(0.01)
    with use_backend("reference"):
        want = ops.int8_linear(x, codes, one).float()
    got = linear_of(name, "int8_linear")(x, codes, None, one).float()
    assert (got - want).norm() <= 0.015 * want.norm()


def test_deepgemm_before_version_2_is_called_by_its_name(
    stand_in: Callable[..., list[str]],
) -> None:
    told = stand_in("deepgemm", "fp8_gemm_nt")
    codes, scale = ops.quantize_fp8_block128(torch.randn(128, 128))
    linear_of("deepgemm", "fp8_block128_linear")(torch.randn(3, 128).half(), codes, None, scale)
    assert told == ["product"]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_library_is_a_reason_and_its_claims_ask_for_a_card(name: str) -> None:
    backend = backends()[name]
    assert backend.proven == SIGNATURE
    assert registry.refusal(name) == f"{package_of(name)} is not installed"
    for claim in backend.claims:
        call = {"x": torch.ones(2, 256), "weight": torch.ones(256, 256), "group_size": 128}
        told = claim.check(call)
        assert told is not None and "needs sm_" in told and "this is cpu" in told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
@pytest.mark.parametrize("name", NAMES)
def test_a_library_without_a_card_is_refused_as_a_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: object())
    assert backends()[name].available() == f"{package_of(name)} needs an NVIDIA card"
    assert backends()["torchao"].available() is None


def package_of(name: str) -> str:
    module = importlib.import_module(f"fusequant.kernels.backends.{name}")
    library = next(v for v in vars(module).values() if type(v).__name__ == "Library")
    found: str = library.package
    return found


@pytest.mark.parametrize(
    ("fault", "says"),
    (
        (None, None),
        (RuntimeError("no kernel image\nmore"), "failed on a trial product: RuntimeError: no kern"),
        (TypeError("unexpected argument"), "failed on a trial product: TypeError: unexpected"),
        (0.0, "gave a wrong trial product"),
        (float("nan"), "gave a wrong trial product"),
    ),
)
def test_a_kernel_proves_itself_on_a_product_before_it_is_used(fault: Any, says: Any) -> None:
    def run(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
        if isinstance(fault, Exception):
            raise fault
        made: Tensor = linear_of("reference", "int8_linear")(x, weight, bias, scale)
        return made if fault is None else made * fault

    found = _trial.refusal("int8_linear", run, 0.015, torch.device("cpu"))
    assert found is None if says is None else found is not None and found.startswith(says)


def test_signatures_say_where_they_were_read() -> None:
    for name in NAMES:
        assert recorded(name)["source"].startswith("github.com/")
