"""What the device rules make of a scheme inside the host: refused, told, or another backend."""

from __future__ import annotations

import pytest
import torch

from fusequant.engine.errors import Refused
from fusequant.host import devices
from fusequant.host.backends import REGISTRY
from fusequant.host.report import Report

CPU, MPS, XPU = (torch.device(kind) for kind in ("cpu", "mps", "xpu"))


def test_what_a_device_refuses_is_refused_before_any_work() -> None:
    for scheme in ("fp8", "fp8_row", "int4_g128"):
        with pytest.raises(Refused, match="use 8-bit"):
            devices.running(scheme, MPS, None, Report(""))


def test_an_emulated_scheme_is_told_with_its_reason() -> None:
    report = Report("")
    assert devices.running("fp8", CPU, None, report) == REGISTRY
    assert report.notes[0] == (
        "fp8 on cpu: emulated, widened some rows at a time to fp32, or to bf16 where that is "
        "computed in and the CPU has units for it"
    )


def test_the_report_says_who_multiplies_where_that_is_not_the_host() -> None:
    why = (
        "multiplied by this pack, not by ComfyUI: comfy-kitchen has only plain torch code on a CPU"
    )
    asked, stored, kitchen, plain = (Report("") for _ in range(4))
    assert devices.running("int8", CPU, None, asked) == REGISTRY
    assert devices.told({"none", "int8", "int8_convrot"}, CPU, None, stored) == REGISTRY
    assert asked.notes == stored.notes == [why]
    assert devices.running("int8", CPU, "kitchen", kitchen) == "kitchen"
    assert devices.told({"none"}, CPU, None, plain) is None
    assert kitchen.notes == plain.notes == []


@pytest.mark.parametrize("scheme", ["fp8", "int8", "int8_weight_only", "nvfp4", "w4a8"])
def test_on_a_cpu_every_quantized_layer_is_multiplied_by_ours(scheme: str) -> None:
    assert devices.running(scheme, CPU, None, Report("")) == REGISTRY
    assert devices.stored_backend({"none", scheme}, CPU, None) == REGISTRY
    assert devices.running(scheme, CPU, "kitchen", Report("")) == "kitchen"
    assert devices.running("none", CPU, None, Report("")) is None
    assert devices.stored_backend({"a scheme of the host alone"}, CPU, None) is None


@pytest.mark.parametrize("device", [MPS, XPU])
def test_int8_without_an_integer_matmul_is_not_left_to_the_host(device: torch.device) -> None:
    assert devices.running("int8", device, None, Report("")) == REGISTRY
    assert devices.running("int8", device, "torch_native", Report("")) == "torch_native"
    assert devices.running("int8_weight_only", device, None, Report("")) is None


def test_a_file_is_left_to_the_host_where_the_host_can_hold_and_multiply_it() -> None:
    assert devices.host_computes({"fp8", "int8", "none"}, CPU)
    assert devices.host_computes({"none", "int8_weight_only"}, CPU)
    assert not devices.host_computes({"none", "int8_weight_only"}, MPS)
    assert not devices.host_computes({"none", "fp8"}, MPS)
    assert not devices.host_computes({"int8"}, XPU)
    assert devices.host_computes({"a scheme of the host alone"}, MPS)


def test_layers_that_a_device_cannot_hold_are_named() -> None:
    assert devices.unholdable(["none", "fp8", "int8", "int4_g128"], MPS) == ["fp8", "int4_g128"]
    assert devices.unholdable(["none", "fp8", "int8", "int4_g128"], XPU) == []


def test_mps_computes_in_bfloat16_never_in_float16() -> None:
    assert devices.compute_dtype(torch.float16, MPS) == torch.bfloat16
    assert devices.compute_dtype(torch.float32, MPS) == torch.float32
    assert devices.compute_dtype(torch.float16, XPU) == torch.float16
