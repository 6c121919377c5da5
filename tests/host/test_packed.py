"""Codes that stand for rows while they lie in oneDNN's order, on a CPU made to look able to."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

kitchen = pytest.importorskip("comfy_kitchen.tensor", reason="comfy-kitchen is not installed")

from fusequant.engine.files.open import open_source  # noqa: E402
from fusequant.host import layouts, packed  # noqa: E402
from fusequant.kernels import cpu, registry  # noqa: E402
from fusequant.kernels.backends import onednn  # noqa: E402
from fusequant.kernels.registry import NoBackend, noted, use_backend  # noqa: E402

Tensor = torch.Tensor
pytestmark = pytest.mark.skipif(
    not torch._C._has_mkldnn or any(not hasattr(torch.ops.onednn, name) for name in onednn.OPS),
    reason="this torch has no oneDNN products",
)
INT8, CONVROT = "FuseQuantInt8Layout", "FuseQuantInt8ConvRotLayout"
N, K = 288, 256


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU with VNNI to all who ask, our layouts registered."""
    package, module = ModuleType("comfy"), ModuleType("comfy.quant_ops")
    module.QUANT_ALGOS = {}  # type: ignore[attr-defined]
    package.quant_ops = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy", package)
    monkeypatch.setitem(sys.modules, "comfy.quant_ops", module)
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"avx2", "avx512_vnni"}))
    monkeypatch.setattr(onednn, "inexact", lambda: None)
    registry.refusal.cache_clear()
    layouts.register()
    yield
    registry.refusal.cache_clear()


def codes(rows: int = N, k: int = K) -> Tensor:
    """Within +-63: products of such with any codes fit 16 bits where the CPU has no int8 units."""
    source = torch.Generator().manual_seed(3)
    return torch.randint(-63, 64, (rows, k), generator=source).to(torch.int8)


def weight(
    name: str = INT8,
    packs: bool = True,
    backend: str | None = None,
    full: bool = False,
    rows: Tensor | None = None,
) -> Any:
    """A weight as the loader makes it."""
    layout, rows = kitchen.get_layout_class(name), codes() if rows is None else rows
    scale = torch.rand((N, 1), generator=torch.Generator().manual_seed(4)) / 100 + 1e-3
    facts = {"full_precision_matrix_mult": True} if full else {}
    pieces = {"weight": rows, "scale": scale}
    params = layout.params_of(pieces, (N, K), torch.float32, facts, backend)
    held = packed.held(layout.SCHEME, rows, params) if packs else rows
    return as_parameter(kitchen.QuantizedTensor(held, name, params))


def as_parameter(made: Any) -> Any:
    """As host/tree.py makes a parameter of another tree over the same codes."""
    again = kitchen.QuantizedTensor(made._qdata, made._layout_cls, made._params)
    again._is_param = True
    return again


def is_packed(made: Any) -> bool:
    return bool(made._qdata.place.tensor.is_mkldnn)


def product(made: Any, rows: int = 9) -> Tensor:
    x = torch.randn(rows, K, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return functional.linear(x, made, torch.arange(N).float())


@pytest.mark.parametrize("name", (INT8, CONVROT))
@pytest.mark.parametrize("rows", (1, 9))
def test_the_first_product_packs_and_gives_what_rows_give(name: str, rows: int) -> None:
    made, plain = weight(name), weight(name, packs=False)
    with use_backend("reference"):
        want = product(plain, rows)
    assert not is_packed(made)
    for _ in range(2):
        with noted() as ran:
            found = product(made, rows)
        assert is_packed(made) and ran[-1] == ("int8_packed_linear", "onednn")
        assert torch.allclose(found, want, rtol=1e-4, atol=1e-3)
    assert ("pack_int8", "onednn") not in ran  # once


def test_products_outside_inference_mode_pack_too() -> None:
    made = weight()
    with torch.no_grad():
        found = functional.linear(torch.ones(2, K), made)
    assert is_packed(made) and found.shape == (2, N)
    assert not made._qdata.place.tensor.is_inference()
    assert torch.equal(product(made), product(weight()))


@pytest.mark.parametrize(
    "made",
    (
        lambda: weight(full=True),
        lambda: weight("FuseQuantInt8WeightOnlyLayout"),
        lambda: weight("FuseQuantFP8RowLayout"),
    ),
)
def test_weights_without_an_int8_product_stay_plain(made: Callable[[], Any]) -> None:
    assert type(made()._qdata) is Tensor


def test_small_layers_and_able_less_machines_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    params = weight()._params
    assert isinstance(packed.held("int8", codes(), params), packed.Codes)
    assert type(packed.held("int8", codes(N, 192), params)) is Tensor
    assert type(packed.held("int8", codes(64, K), params)) is Tensor
    monkeypatch.setattr(onednn, "inexact", lambda: "a wrong product")
    registry.refusal.cache_clear()
    assert type(packed.held("int8", codes(), params)) is Tensor


def test_a_forced_backend_gets_rows() -> None:
    made = weight(backend="torch_native")
    with noted() as ran:
        found = product(made)
    assert not is_packed(made) and ("int8_linear", "torch_native") in ran
    shared = weight()  # packed by another weight over the same codes
    product(shared)
    again = kitchen.QuantizedTensor(shared._qdata, INT8, made._params)
    assert torch.equal(product(again), found) and is_packed(shared)
    assert is_packed(weight(backend="onednn")) is False
    product(one := weight(backend="onednn?"))
    assert is_packed(one)
    with pytest.raises(NoBackend):
        product(weight(backend="vllm"))


def test_everything_that_reads_a_packed_weight_gets_the_rows() -> None:
    made, plain = weight(), weight(packs=False)
    product(made)
    assert made.nbytes == plain.nbytes == N * K and made._qdata.dtype == torch.int8
    assert torch.equal(made.dequantize(), plain.dequantize())
    assert torch.equal(made.t().dequantize(), plain.t().dequantize())
    for key, value in made.state_dict("weight").items():
        wanted = plain.state_dict("weight")[key]
        assert value.shape == wanted.shape and value.nbytes == wanted.nbytes
        assert torch.equal(value, wanted) and torch.equal(value.float(), wanted.float())
    (stored, *_) = made.layout_cls.get_plain_tensors(made)
    assert torch.equal(stored[5:7, ::2], codes()[5:7, ::2])
    assert torch.equal(stored.view(torch.uint8), codes().view(torch.uint8))
    assert is_packed(made)  # nobody who read changed it


def test_a_saver_that_asks_for_contiguous_memory_gets_it() -> None:
    made = weight()
    product(made)
    value = made.state_dict("weight")["weight"]
    assert not value.is_contiguous()
    ready = value.detach().cpu().contiguous()
    assert type(ready) is Tensor and ready.is_contiguous() and torch.equal(ready, codes())
    assert bytes(value.numpy()) == bytes(codes().numpy()) and is_packed(made)


def test_an_address_is_that_of_rows_that_stay() -> None:
    made = weight()
    product(made)
    address = made.data_ptr()
    product(made)
    assert not is_packed(made) and made.data_ptr() == address == made._qdata.rows.data_ptr()


def test_copies_share_the_packed_codes_and_clones_do_not() -> None:
    made = weight()
    shared = (as_parameter(made), made.detach(), torch.nn.Parameter(made, requires_grad=False))
    clone = made.clone()
    product(made)
    assert all(is_packed(one) for one in shared) and not is_packed(clone)
    later = made.clone()
    assert is_packed(later) and torch.equal(product(later), product(made))
    with torch.inference_mode():
        assert made.to(device="cpu") is made
    other = made.to(torch.bfloat16)
    assert other.dtype == torch.bfloat16
    assert torch.equal(other.dequantize(), made.dequantize().bfloat16())
    assert other._params.orig_dtype == torch.bfloat16


def test_who_writes_into_packed_codes_writes_into_their_rows() -> None:
    made, source = weight(), weight(packs=False)
    product(made)
    clone = made.clone()
    source._qdata.mul_(-1)
    made.copy_(source)
    assert torch.equal(made._qdata, -codes()) and torch.equal(clone._qdata, codes())
    assert torch.allclose(product(made), product(weight(), 9) * -1 + 2 * torch.arange(N), atol=1e-3)
    assert is_packed(made)
    plain = torch.zeros_like(codes())
    plain.copy_(clone._qdata)
    assert torch.equal(plain, codes()) and is_packed(clone)


def test_another_device_gets_rows() -> None:
    made = weight()
    product(made)
    gone = made._qdata.to("meta")
    assert gone.device.type == "meta" and type(gone) is Tensor and is_packed(made)


def test_a_weight_quantized_again_is_packed_again() -> None:
    made = weight()
    product(made)
    again = made.requantize_from_float(made.dequantize() * 2, scale="recalculate")
    assert isinstance(again._qdata, packed.Codes) and not is_packed(again)
    assert (again.dequantize() - made.dequantize() * 2).norm() < 0.02 * made.dequantize().norm()
    rows = weight(packs=False).requantize_from_float(made.dequantize())
    assert type(rows._qdata) is Tensor


def test_a_product_with_a_branch_takes_packed_codes() -> None:
    """As Live LoRA asks for it."""
    made, source = weight(), torch.Generator().manual_seed(6)
    down, up = (torch.randn(s, generator=source) for s in ((4, K), (N, 4)))
    x = torch.randn(5, K, generator=source)
    found = made.layout_cls.linear_of(x, made._qdata, made._params, None, (down, up))
    base = functional.linear(x, weight(packs=False))
    assert is_packed(made)
    assert torch.allclose(found, base + x @ down.t() @ up.t(), rtol=1e-4, atol=1e-2)


def test_two_threads_pack_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls = weight(), []
    pack = packed.ops.pack_int8
    monkeypatch.setattr(packed.ops, "pack_int8", lambda rows: calls.append(1) or pack(rows))
    threads = [threading.Thread(target=product, args=(made,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_packed(made) and len(calls) == 1


def test_rows_in_a_file_are_memory_that_packing_takes(tmp_path: Path) -> None:
    save_file({"weight": codes()}, tmp_path / "rows.safetensors")
    source = open_source(tmp_path / "rows.safetensors")
    made, other = (weight(rows=source.tensor("weight")) for _ in range(2))
    alone = torch.nn.ModuleList([Layer(made), Layer(as_parameter(made))])
    assert packed.mapped_bytes(alone) == N * K  # one copy, however many weights are over it
    assert packed.mapped_bytes(torch.nn.ModuleList([alone, Layer(other)])) == 2 * N * K
    assert packed.mapped_bytes(Layer(weight())) == 0  # rows in memory, which packed ones replace
    assert packed.mapped_bytes(Layer(weight(packs=False, rows=source.tensor("weight")))) == 0
    forced = weight(backend="torch_native", rows=source.tensor("weight"))
    assert packed.mapped_bytes(Layer(forced)) == 0
    other.data_ptr()  # rows stay
    assert packed.mapped_bytes(Layer(other)) == 0
    product(made)
    assert is_packed(made) and packed.mapped_bytes(alone) == 0


class Layer(torch.nn.Module):
    """One linear, after something that a compiler looks at."""

    def __init__(self, made: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(made, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(torch.relu(x), self.weight)


@pytest.mark.parametrize(
    "mode", (torch.inference_mode, torch.no_grad), ids=("inference", "no grad")
)
@pytest.mark.parametrize("before", (True, False), ids=("packed", "fresh"))
def test_a_compiled_layer_computes_on_rows(before: bool, mode: Any) -> None:
    torch._dynamo.reset()
    layer, x = Layer(weight()), torch.randn(6, K)
    with mode():
        wanted = layer(x) if before else Layer(weight())(x)
        assert is_packed(layer.weight) == before
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        with noted() as ran:
            for _ in range(2):
                assert torch.allclose(compiled(x), wanted, rtol=1e-4, atol=1e-3)
        assert {op for op, _ in ran} - {"unpack_int8"} == {"int8_linear"}
        assert not is_packed(layer.weight)
        assert torch.allclose(layer(x), wanted, rtol=1e-4, atol=1e-3)
    torch._dynamo.reset()
