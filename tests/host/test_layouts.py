"""Our layouts in comfy-kitchen alone: numbers, turning, saving, another copy of the pack."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

kitchen = pytest.importorskip("comfy_kitchen.tensor", reason="comfy-kitchen is not installed")

from fusequant.engine.rows import all_schemes  # noqa: E402
from fusequant.host import layouts  # noqa: E402
from fusequant.host.backends import forced_backend  # noqa: E402
from fusequant.host.report import Report  # noqa: E402
from fusequant.kernels.registry import NoBackend  # noqa: E402

OWN = (*layouts.OWN_FORMATS.values(), *layouts.FORCED_FORMATS.values())
NAMES = [own.layout_name for own in OWN]
FOUR_BIT_INPUTS = ("FuseQuantNVFP4Layout", "FuseQuantW4A4Layout")


@pytest.fixture(autouse=True)
def host_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """ComfyUI's table of formats, with one entry of its own."""
    table: dict[str, Any] = {"int8_tensorwise": "the host's"}
    package, module = ModuleType("comfy"), ModuleType("comfy.quant_ops")
    module.QUANT_ALGOS = table  # type: ignore[attr-defined]
    package.quant_ops = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy", package)
    monkeypatch.setitem(sys.modules, "comfy.quant_ops", module)
    layouts.register()
    yield table


def weight(rows: int = 96, k: int = 256) -> torch.Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(0))


def quantized(name: str, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    return kitchen.QuantizedTensor.from_float(weight().to(dtype), name, **more)


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_holds_what_its_scheme_makes(name: str) -> None:
    made = quantized(name)
    scheme = made.layout_cls.scheme()
    pieces = scheme.quantize(weight())
    assert torch.equal(made._qdata.view(torch.uint8), pieces["weight"].view(torch.uint8))
    assert torch.equal(made.dequantize(), scheme.dequantize(pieces, scheme.config(96, 256)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_linear_is_the_same_in_every_form_that_torch_gives_it(
    name: str, dtype: torch.dtype
) -> None:
    made = quantized(name, dtype)
    x, bias = torch.randn(2, 3, 256).to(dtype), torch.randn(96).to(dtype)
    with torch.inference_mode():
        direct = torch.nn.functional.linear(x, made, bias)
    with torch.no_grad():
        taken_apart = torch.nn.functional.linear(x, made, bias)
        turned = torch.addmm(bias, x.reshape(6, 256), made.t()).reshape(2, 3, 96)
        plain = torch.mm(x.reshape(6, 256), made.t()).reshape(2, 3, 96) + bias
    assert direct.dtype == dtype
    assert torch.equal(direct, taken_apart) and torch.equal(direct, turned)
    assert torch.allclose(direct.float(), plain.float(), rtol=0.02, atol=0.05)
    wanted = torch.nn.functional.linear(x.float(), made.dequantize().float(), bias.float())
    bound = 0.2 if name in FOUR_BIT_INPUTS else 0.04
    assert float((direct.float() - wanted).norm() / wanted.norm()) < bound


@pytest.mark.parametrize("name", NAMES)
def test_turning_twice_gives_the_weight_back(name: str) -> None:
    made = quantized(name)
    assert made.t().shape == (256, 96)
    assert torch.equal(made.t().dequantize(), made.dequantize().t())
    assert torch.equal(made.t().t().dequantize(), made.dequantize())


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_operation_sees_the_numbers(name: str) -> None:
    made = quantized(name)
    assert torch.equal(made + 1.0, made.dequantize() + 1.0)
    assert torch.equal(torch.mm(made, torch.eye(256)), made.dequantize())


@pytest.mark.parametrize("name", NAMES)
def test_saved_tensors_have_the_shapes_of_the_file(name: str) -> None:
    made = quantized(name)
    pieces = made.layout_cls.scheme().pieces(96, 256, "BF16")
    saved = made.state_dict("L.weight")
    assert {key: tuple(t.shape) for key, t in saved.items()} == {
        f"L{piece.suffix}": piece.shape for piece in pieces.values()
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_can_be_quantized_again_as_comfyui_asks_for_it(name: str) -> None:
    made = quantized(name, backend="reference")
    again = made.requantize_from_float(
        made.dequantize(), scale="recalculate", stochastic_rounding=1234, inplace_ops=True
    )
    assert again.params.backend == "reference"
    difference = float((again.dequantize() - made.dequantize()).norm() / made.dequantize().norm())
    assert difference < 0.1
    copied = made.clone()
    copied.copy_(again)
    assert torch.equal(copied.dequantize(), again.dequantize())


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_a_field_that_flattening_finds(name: str) -> None:
    made = quantized(name, input_scale=torch.tensor(0.5))
    inner, context = made.__tensor_flatten__()
    parts = {key: getattr(made, key) for key in inner}
    back = kitchen.QuantizedTensor.__tensor_unflatten__(parts, context, made.shape, made.stride())
    assert torch.equal(back.dequantize(), made.dequantize())
    assert len(inner) == 1 + len(made.params._tensor_fields())


@pytest.mark.parametrize("name", ("FuseQuantMXFP8Layout", "FuseQuantNVFP4Layout"))
def test_a_weight_whose_codes_are_filled_up_keeps_its_shape(name: str) -> None:
    source = weight(90, 250)
    made = kitchen.QuantizedTensor.from_float(source, name)
    assert made.shape == (90, 250) and made.storage_shape[0] == 96
    values = made.dequantize()
    assert values.shape == (90, 250)
    assert float((values - source).norm() / source.norm()) < 0.11
    x, bias = torch.randn(5, 250), torch.randn(90)
    with torch.inference_mode():
        got = torch.nn.functional.linear(x, made, bias)
    assert got.shape == (5, 90)
    assert float((got - x @ values.T - bias).norm() / got.norm()) < 0.15
    assert torch.equal(made.t().dequantize(), values.t())


def test_a_forced_backend_that_cannot_run_says_so() -> None:
    made = quantized("FuseQuantFP8RowLayout", backend="no such backend")
    with pytest.raises(NoBackend, match="no such backend"):
        torch.nn.functional.linear(torch.randn(2, 256), made)


def test_a_backend_that_a_scheme_s_name_implies_leaves_the_rest_to_others() -> None:
    name, x = "FuseQuantFP8RowLayout", torch.randn(2, 256)
    product = torch.nn.functional.linear
    with torch.inference_mode():
        want = product(x, quantized(name))
        assert torch.equal(product(x, quantized(name, backend="vllm?")), want)
        with pytest.raises(NoBackend, match="vllm is not installed"):
            product(x, quantized(name, backend="vllm"))


def test_only_an_implied_backend_may_be_left() -> None:
    report = Report("a test")
    assert forced_backend(None, "torchao", report) == "torchao?"
    assert forced_backend("torchao", "vllm", report) == "torchao"
    assert forced_backend(None, None, report) is None and not report.warnings
    assert forced_backend(None, "vllm", report) is None
    assert report.warnings == ["backend vllm is not used, auto is: vllm is not installed"]


def test_registering_adds_our_ids_and_leaves_the_hosts(host_table: dict[str, Any]) -> None:
    assert host_table["int8_tensorwise"] == "the host's"
    assert set(layouts.OWN_FORMATS) < set(host_table)
    assert all(
        entry["quantize_input"] is False for entry in host_table.values() if isinstance(entry, dict)
    )
    ids = {scheme.format_id for scheme in all_schemes().values()}
    assert set(layouts.OWN_FORMATS) < ids


def test_the_first_copy_of_the_pack_keeps_its_layouts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = type("FuseQuantInt4Layout", (layouts.FuseQuantInt4Layout,), {"__module__": "first"})
    monkeypatch.setitem(
        kitchen.base.LAYOUTS if hasattr(kitchen, "base") else sys.modules[
            "comfy_kitchen.tensor.base"
        ].LAYOUTS,
        "FuseQuantInt4Layout",
        first,
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        layouts.register()
    assert layouts.registered("FuseQuantInt4Layout") is first
    assert "second copy" in caplog.text and "first" in caplog.text
