"""What comfy-kitchen's registry says of its kernels, with registries as hosts leave them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fusequant.kernels import registry
from fusequant.kernels.backends import _kitchen_triton, _native_rotated, _trial, kitchen
from fusequant.kernels.backends._kitchen_kernels import LINEARS, ON_CPU

CARD = torch.device("cuda")
ROTATED = ("int8", "int8_convrot", "w4a8", "w4a4_convrot")
Host = Callable[..., Any]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """host(capability, cuda="12.8", off=...) is comfy-kitchen's registry on such a card."""
    module = importlib.import_module("comfy_kitchen.registry")

    def make(
        capability: tuple[int, int] = (8, 6), cuda: str | None = "13.0", hip: str | None = None,
        off: tuple[str, ...] = ("triton",), without: tuple[str, ...] = (),
    ) -> Any:  # fmt: skip
        made = module.BackendRegistry()
        for name in ("cuda", "triton"):
            backend = importlib.import_module(f"comfy_kitchen.backends.{name}")
            if name == "cuda":
                monkeypatch.setattr(backend, "_CUBLASLT_AVAILABLE", True)
            claims = backend._build_constraints()
            made.register(name, backend, {f: c for f, c in claims.items() if f not in without})
        for name in off:
            made.disable(name)
        made.__dict__["_compute_capability"] = capability
        monkeypatch.setattr(module, "registry", made)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        return made

    return make


def test_compiled_kernels_are_no_reason(host: Host) -> None:
    host()
    for scheme in (*ROTATED, "int8_weight_only", "fp8", "fp8_e5m2"):
        assert kitchen.why_eager(scheme, CARD) is None
    host((12, 0))
    assert [s for s in LINEARS if kitchen.why_eager(s, CARD)] == []


@pytest.mark.parametrize("scheme", ROTATED)
def test_kernels_that_the_host_switched_off_are_told_with_both_versions(
    scheme: str, host: Host
) -> None:
    host(cuda="12.8", off=("cuda", "triton"))
    assert kitchen.why_eager(scheme, CARD) == (
        "comfy-kitchen's CUDA kernels are switched off here "
        "(torch is built for CUDA 12.8; they need 13.0)"
    )
    host(off=("cuda", "triton"))
    told = "comfy-kitchen's CUDA kernels are switched off here"
    assert kitchen.why_eager(scheme, CARD) == told


@pytest.mark.parametrize("scheme", ("int8", "w4a8"))
def test_its_triton_kernels_count_where_the_host_switched_them_on(scheme: str, host: Host) -> None:
    host(cuda="12.8", off=("cuda",))
    assert kitchen.why_eager(scheme, CARD) is None
    host((7, 5), cuda="12.8", off=("cuda",))
    assert kitchen.why_eager(scheme, CARD) is not None  # int8 products of Triton need sm_80


def test_a_card_that_is_too_old_is_named(host: Host) -> None:
    host((7, 5))
    assert kitchen.why_eager("int8", CARD) is None
    told = "comfy-kitchen's CUDA kernels need sm_80, this is sm_75 for w4a8_int8_linear"
    assert kitchen.why_eager("w4a8", CARD) == told


def test_a_function_that_was_never_compiled_is_named(host: Host) -> None:
    host(without=("int8_linear",))
    assert kitchen.why_eager("int8", CARD) == "comfy-kitchen's CUDA kernels have no int8_linear"
    assert kitchen.why_eager("w4a8", CARD) is None
    assert kitchen.why_eager("fp8_row", CARD) == "comfy-kitchen's CUDA kernels have no fp8_row"


@pytest.mark.parametrize("scheme", ("mxfp8", "nvfp4"))
def test_activations_in_blocks_want_a_kernel_from_blackwell_on(scheme: str, host: Host) -> None:
    host((12, 0))
    assert kitchen.why_eager(scheme, CARD) is None
    host((12, 0), cuda="12.8", off=("cuda", "triton"))
    assert "torch is built for CUDA 12.8" in str(kitchen.why_eager(scheme, CARD))
    host((8, 9), cuda="12.8", off=("cuda", "triton"))  # the weight is dequantized there
    assert kitchen.why_eager(scheme, CARD) is None


def test_a_backend_that_failed_to_load_is_told_in_its_words(host: Host) -> None:
    made = host()
    made._backends.pop("cuda")
    made.mark_unavailable("cuda", "CUDA not available on this system")
    told = "comfy-kitchen's CUDA kernels cannot run here: CUDA not available on this system"
    assert kitchen.why_eager("int8", CARD) == told


def test_amd_cards_are_asked_of_the_hip_kernels(host: Host) -> None:
    made = host((11, 0), cuda=None, hip="7.1", off=("cuda", "triton"))
    told = "comfy-kitchen's HIP kernels are switched off here"
    assert kitchen.why_eager("int8", CARD) == told
    made.mark_unavailable("hip", "architecture is not in the validated target manifest: gfx906")
    assert "gfx906" in str(kitchen.why_eager("int8", CARD))
    rules = importlib.import_module("comfy_kitchen.constraints")
    only = rules.FunctionConstraints(default_devices=frozenset({"cuda"}))
    made.register("hip", SimpleNamespace(), {"int8_linear": only})
    assert kitchen.why_eager("int8_convrot", CARD) is None
    assert kitchen.why_eager("fp8", CARD) is kitchen.why_eager("nvfp4", CARD) is None
    told = "comfy-kitchen's HIP kernels have no w4a8_int8_linear"
    assert kitchen.why_eager("w4a8", CARD) == told


@pytest.mark.parametrize("scheme", LINEARS)
def test_a_cpu_has_plain_torch_in_any_case(scheme: str) -> None:
    assert kitchen.why_eager(scheme, torch.device("cpu")) == ON_CPU


def test_other_devices_are_told_by_name(host: Host) -> None:
    made = host(cuda=None, off=("cuda", "triton"))
    told = "comfy-kitchen has only plain torch code on mps"
    assert kitchen.why_eager("int8", torch.device("mps")) == told
    assert "Triton kernels are switched off" in str(kitchen.why_eager("int8", torch.device("xpu")))
    made.enable("triton")
    made.__dict__["_compute_capability"] = None
    assert "compute capability" in str(kitchen.why_eager("int8", torch.device("xpu")))


def test_without_comfy_kitchen_that_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kitchen, "available", lambda: "comfy-kitchen cannot be imported: no")
    assert kitchen.why_eager("int8", CARD) == "comfy-kitchen cannot be imported: no"


@pytest.mark.parametrize("op", ("int8_linear", "int8_convrot_linear"))
def test_turing_gets_torch_s_product_between_passes_of_ours(
    op: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host((7, 5), cuda="12.8", off=("cuda", "triton"))
    monkeypatch.setattr(_trial, "refusal", lambda *call: None)
    taken = next(c for _, c in first_claims(op) if c.check({"x": card(4, 64)}) is None)
    assert taken.run.__name__ == f"{op}_by_torch"
    host((8, 6), cuda="12.8", off=("cuda", "triton"))
    taken = next(c for _, c in first_claims(op) if c.check({"x": card(4, 64)}) is None)
    assert (taken.run.__module__.rpartition(".")[2], taken.run.__name__) == ("triton", op)


@pytest.mark.parametrize("op", ("mxfp8_linear", "nvfp4_linear"))
def test_blocks_are_widened_to_x_s_dtype_on_a_card(op: str, host: Host) -> None:
    host((8, 6), cuda="12.8", off=("cuda", "triton"))
    name, taken = next(c for c in first_claims(op) if c[1].check({"x": card(4, 64)}) is None)
    assert (name, taken.error) == ("torch_native", 0.006)


def card(*shape: int) -> Any:
    return SimpleNamespace(
        device=CARD, dtype=torch.bfloat16, shape=torch.Size(shape), numel=lambda: 1, ndim=2
    )


def first_claims(op: str) -> list[tuple[str, Any]]:
    """(backend, claim) as they are asked on a card, up to the reference."""
    asked = [(b.name, claim) for b, claim in registry._candidates(op, "cuda")]
    return asked[: [name for name, _ in asked].index("reference") + 1]


@pytest.mark.parametrize("op", ("int8_linear", "int8_convrot_linear", "w4a8_linear", "w4a4_linear"))
def test_plain_torch_code_is_refused_on_a_card_and_a_cpu_keeps_it(op: str, host: Host) -> None:
    name, claim = first_claims(op)[0]
    assert name == "kitchen"
    host()
    assert claim.check({"x": card(4, 64)}) is None
    assert claim.check({"x": torch.ones(4, 64)}) is None
    host(cuda="12.8", off=("cuda", "triton"))
    assert claim.check({"x": card(4, 64)}) == (
        "x would be computed by plain torch: comfy-kitchen's CUDA kernels are switched off here "
        "(torch is built for CUDA 12.8; they need 13.0)"
    )
    assert claim.check({"x": torch.ones(4, 64)}) is None


CPUS_ALONE = ("onednn", "avx2")


def test_ours_come_next_and_comfy_kitchen_s_triton_products_before_plain_torch() -> None:
    for op, first in (
        ("int8_linear", ["kitchen", "triton", "triton", "kitchen", "torch_native"]),
        ("int8_convrot_linear", ["kitchen", "triton", "triton", "kitchen", "torch_native"]),
        ("w4a8_linear", ["kitchen", "kitchen", "torch_native"]),
    ):
        names = [name for name, _ in first_claims(op) if name not in CPUS_ALONE]
        assert names[: len(first)] == first


@pytest.mark.parametrize("scheme", ("mxfp8", "nvfp4", "w4a4", "w4a8"))
def test_plain_quantizers_are_left_to_ours_on_a_card(scheme: str, host: Host) -> None:
    host(cuda="12.8", off=("cuda", "triton"))
    claim = first_claims(f"quantize_{scheme}")[0][1]
    assert "plain torch" in str(claim.check({"weight": card(4, 64)}))


def refused_triton(op: str) -> str | None:
    claim = next(c for c in _kitchen_triton.CLAIMS if c.op == op)
    found: str | None = claim.check({"x": card(4, 64)})
    return found


@pytest.mark.parametrize(
    ("arch", "triton", "says"),
    (
        ("gfx1030", "3.7.0", "this is gfx1030"),  # it would hang the GPU
        ("gfx906:sramecc+", "3.7.0", "this is gfx906"),
        ("gfx1101", "3.6.2", "needs Triton 3.7 on AMD, this is 3.6.2"),
        ("gfx1101", "3.7.0", None),
        ("gfx942:sramecc+:xnack-", "3.10.1", None),
    ),
)
def test_triton_products_ask_for_matrix_units(
    arch: str, triton: str, says: str | None, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host(cuda=None, hip="7.1", off=("cuda", "triton"))
    module = importlib.import_module("triton")
    facts = SimpleNamespace(gcnArchName=arch)
    monkeypatch.setattr(module, "__version__", triton)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    for op in ("int8_linear", "int8_convrot_linear", "w4a8_linear"):
        monkeypatch.setattr(_trial, "refusal", lambda *call: None)
        found = refused_triton(op)
        assert found is None if says is None else found is not None and says in found


def test_triton_products_ask_for_a_card_and_the_function(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host((7, 5))
    assert "this is sm_75" in str(refused_triton("int8_linear"))
    host((8, 6))
    module = importlib.import_module(_kitchen_triton.MODULE)
    monkeypatch.delattr(module, "w4a8_int8_linear")
    monkeypatch.setattr(module, "_TRITON_ERROR", "ImportError: no triton")
    assert "w4a8_int8_linear: ImportError: no triton" in str(refused_triton("w4a8_linear"))


def test_codes_are_looked_up_in_runs_as_at_once() -> None:
    weight = torch.randint(-128, 127, (50, 32), dtype=torch.int8)
    scale = torch.rand(50, 4).to(torch.float8_e4m3fn)
    for codebook in (None, torch.linspace(-1, 1, 16)):
        whole = _native_rotated.integers(weight, scale, codebook)
        runs = _native_rotated.integers_in_runs(weight, scale, codebook, 64 * 7)
        assert torch.equal(runs, whole)
