"""What comfy-kitchen's registry says of its kernels, with registries as hosts leave them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fusequant.kernels.backends import kitchen
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


def test_blocks_are_quantized_on_blackwell_and_dequantized_before_it(host: Host) -> None:
    host((12, 0), without=("dequantize_nvfp4", "dequantize_mxfp8"))
    assert kitchen.why_eager("nvfp4", CARD) is kitchen.why_eager("mxfp8", CARD) is None
    host((8, 9), without=("quantize_nvfp4", "quantize_mxfp8"))
    assert kitchen.why_eager("nvfp4", CARD) is None
    assert "no dequantize_mxfp8" in str(kitchen.why_eager("mxfp8", CARD))


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
    assert kitchen.why_eager("fp8", CARD) is None
    told = "comfy-kitchen's HIP kernels have no dequantize_nvfp4"
    assert kitchen.why_eager("nvfp4", CARD) == told


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
