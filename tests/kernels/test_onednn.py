"""int8 by oneDNN: one fused pass, packed weights, exact or refused; on codes any CPU can sum."""

from __future__ import annotations

import threading

import pytest
import torch

from fusequant.kernels import cpu, ops, passes, registry
from fusequant.kernels.backends import onednn
from fusequant.kernels.registry import NoBackend, use_backend

Tensor = torch.Tensor
ready = pytest.mark.skipif(
    not torch._C._has_mkldnn or any(not hasattr(torch.ops.onednn, name) for name in onednn.OPS),
    reason="this torch has no oneDNN products",
)


def layer(outputs: int, k: int) -> tuple[Tensor, Tensor]:
    """Codes within +-63, whose pairs fit 16 bits on a CPU without int8 units, and row scales."""
    source = torch.Generator().manual_seed(3)
    codes = torch.randint(-63, 64, (outputs, k), generator=source).to(torch.int8)
    return codes, torch.rand((outputs, 1), generator=source) / 100 + 1e-3


@ready
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32), ids=str)
@pytest.mark.parametrize("rows", (1, 5, 70))
def test_packed_and_plain_rows_give_the_formula(
    rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(onednn.BLOCK_BYTES, "cpu", 4 * 48 * 32)  # three blocks of rows
    codes, scale = layer(48, 256)
    x, bias = torch.randn(rows, 256).to(dtype), torch.randn(48).to(dtype)
    values = x.double()
    sx = values.abs().amax(1, keepdim=True) / 127
    rounded = (values / sx).round()
    want = (rounded * sx) @ (codes.double() * scale.double()).T + bias.double()
    packed = onednn.pack_int8(codes)
    for found in (
        onednn.int8_linear(x, codes, bias, scale),
        onednn.int8_packed_linear(x, packed, bias, scale, 0),
    ):
        assert found.dtype == dtype and found.shape == (rows, 48)
        limit = 0.004 if dtype == torch.bfloat16 else 1e-3  # a tie may round the other way
        assert (found.double() - want).norm() < limit * want.norm()


@ready
def test_a_rotated_weight_is_multiplied_by_rotated_rows() -> None:
    codes, scale = layer(32, 64)
    x = torch.randn(9, 64)
    with use_backend("reference"):
        want = ops.int8_convrot_linear(x, codes, scale, 16)
    packed = onednn.pack_int8(codes)
    for found in (
        onednn.int8_convrot_linear(x, codes, None, scale, 16),
        onednn.int8_packed_linear(x, packed, None, scale, 16),
    ):
        assert (found - want).norm() < 1e-3 * want.norm()


@ready
def test_every_op_takes_a_packed_weight_in_the_place_of_its_rows() -> None:
    codes, scale = layer(32, 64)
    packed, x = onednn.pack_int8(codes[:]), torch.randn(2, 3, 64)
    assert packed.is_mkldnn and packed.numel() == codes.numel()
    assert torch.equal(ops.unpack_int8(packed), codes)
    assert torch.equal(ops.dequantize_int8(packed, scale), codes.float() * scale)
    calls = (ops.int8_linear, ops.int8_weight_only_linear)
    with use_backend("reference"):
        for call in calls:
            assert torch.allclose(call(x, packed, scale), call(x, codes, scale))
        turned = ops.int8_convrot_linear(x, packed, scale, 16)
        assert torch.allclose(turned, ops.int8_convrot_linear(x, codes, scale, 16))
    assert ops.int8_linear(x[:0], packed, scale).shape == (0, 3, 32)
    with pytest.raises(ValueError, match="64 inputs, 32 outputs"):
        ops.int8_linear(torch.randn(2, 65), packed, scale)


@ready
def test_weights_that_begin_anywhere_are_packed() -> None:
    codes, _ = layer(32, 64)
    raw = torch.empty(32 * 64 + 8, dtype=torch.int8)
    for offset in (1, 8):
        shifted = raw[offset : offset + 32 * 64].view(32, 64).copy_(codes)
        assert torch.equal(ops.unpack_int8(onednn.pack_int8(shifted)), codes)


def test_a_cpu_without_int8_units_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"avx2"}))
    assert "neither VNNI nor AMX" in str(onednn.available())
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"avx2", "avx_vnni"}))
    monkeypatch.setattr(onednn, "inexact", lambda: "a wrong product")
    assert onednn.available() == "a wrong product"
    monkeypatch.setattr(onednn, "inexact", lambda: None)
    assert onednn.available() is None
    monkeypatch.setattr(onednn, "OPS", ("qlinear_of_tomorrow",))
    assert onednn.available() == "this torch has no onednn::qlinear_of_tomorrow"


@ready
def test_an_inexact_product_is_found_by_the_trial() -> None:
    """The one place where 16-bit sums overflow without a word is what the trial looks at."""
    reason = onednn.inexact()
    if cpu.features().intersection(cpu.INT8_UNITS):
        assert reason is None
    elif cpu.is_x86():
        assert reason == "qlinear_pointwise gave a wrong product on this CPU"


def test_a_forced_backend_that_cannot_run_says_why() -> None:
    reason = registry.refusal("onednn")
    if reason is None:
        pytest.skip("this CPU has int8 units: nothing to refuse")
    codes, scale = layer(32, 64)
    with use_backend("onednn"), pytest.raises(NoBackend) as refused:
        ops.int8_linear(torch.randn(2, 64), codes, scale)
    assert str(refused.value).endswith(f"cannot run int8_linear: {reason}")
    assert ops.pack_int8(codes) is codes  # rows stay rows where nobody packs


def test_a_pass_stays_plain_until_it_has_cost_what_compiling_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda f, **_: compiled.append(f) or (lambda x: x + 2))
    monkeypatch.setattr(passes, "no_compiler", lambda: None)
    add = passes.Pass(lambda x: x + 1)
    large, small = torch.zeros(2, passes.LEAST_ELEMENTS // 2), torch.zeros(2, 2)
    assert add(large).max() == 1 and not compiled
    monkeypatch.setattr(passes, "PAYS_AFTER_S", 0.0)
    assert add(small).max() == 1 and not compiled
    assert add(large).max() == 2 and add(large).max() == 2 and len(compiled) == 1


def test_what_does_not_compile_runs_plain_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> object:
        raise RuntimeError("g++ died\nmore")

    monkeypatch.setattr(torch, "compile", lambda f, **_: fail)
    monkeypatch.setattr(passes, "no_compiler", lambda: None)
    large = torch.zeros(2, passes.LEAST_ELEMENTS // 2)
    broken = passes.Pass(onednn._quantized)
    with passes.at_once():
        codes, _ = broken(large)
    assert codes.dtype == torch.int8 and broken.refusal == "_quantized does not compile: g++ died"
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "no-such-compiler")
    bare = passes.Pass(onednn._quantized)
    with passes.at_once():
        bare(large)
    assert bare.refusal == "there is no C++ compiler (no-such-compiler) to fuse passes with"


def test_while_one_thread_compiles_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(x: Tensor) -> Tensor:
        started.set()
        assert go.wait(20)
        return x + 2

    monkeypatch.setattr(torch, "compile", lambda f, **_: slow)
    monkeypatch.setattr(passes, "no_compiler", lambda: None)
    monkeypatch.setattr(passes, "PAYS_AFTER_S", 0.0)
    add, large = passes.Pass(lambda x: x + 1), torch.zeros(2, passes.LEAST_ELEMENTS // 2)
    first = threading.Thread(target=add, args=(large,))
    first.start()
    assert started.wait(20)
    assert add(large).max() == 1
    go.set()
    first.join()
    assert add(large).max() == 2


@pytest.mark.slow
@pytest.mark.skipif(passes.no_compiler() is not None, reason="no C++ compiler")
def test_compiled_passes_give_the_same_bits() -> None:
    x = torch.randn(128, 2048).bfloat16()
    x[3] = 0
    values = torch.randn(128, 2048) * 1000
    out, bias = torch.empty(3, 128, 2048).bfloat16(), torch.randn(2048)
    with torch.inference_mode(), passes.at_once():
        codes, sx = onednn._quantized(x)
        found = onednn.quantized(x)
        assert torch.equal(found[0], codes) and torch.equal(found[1], sx)
        assert onednn.quantized.refusal is None and onednn.quantized._compiled is not None
        for added in (bias, None):
            onednn._of_values(values, out[0], sx, added)
            onednn.of_values(values, out[1], sx, added)
            onednn._of_values_in_place(values.clone(), out[2], sx, added)
            assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])


@pytest.mark.parametrize("k", (64, 3000))
def test_quantizing_in_runs_of_rows_gives_the_same_bits(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "RUN_ELEMENTS", 1000)  # of k 3000: a row at a time
    x = torch.randn(150, k, generator=torch.Generator().manual_seed(1)).bfloat16()
    x[7] = 0
    for some in (x, x[:1], x.float()):
        codes, scale = onednn._quantized(some)
        found = onednn._quantized_in_runs(some)
        assert torch.equal(found[0], codes) and torch.equal(found[1], scale)
        assert found[1].dtype == torch.float32


@pytest.mark.parametrize("rows", (1, 31, 1280, 1366, 4096, 5000))
@pytest.mark.parametrize("outputs", (48, 3072, 15360))
def test_blocks_of_rows_are_of_one_size(rows: int, outputs: int) -> None:
    step, most = onednn.block_rows(rows, outputs), onednn.BLOCK_BYTES["cpu"] // (4 * outputs)
    blocks = -(-rows // step)
    assert step <= max(32, most) and blocks == -(-rows // max(32, most))
    assert rows - (blocks - 1) * step > step - blocks  # the last is as large but for the remainder


@ready
@pytest.mark.parametrize("numbers", (1, 48))
def test_the_scale_is_multiplied_in_by_either_product(numbers: int) -> None:
    codes, scale = layer(48, 256)
    x = torch.randint(-63, 64, (5, 256)).to(torch.int8)
    scale = scale[:numbers]
    want = (x.double() @ codes.double().T) * scale.double().reshape(1, -1)
    for product in (
        onednn.rows_product(codes, scale), onednn.packed_product(onednn.pack_int8(codes), scale),
    ):  # fmt: skip
        assert torch.allclose(product(x).double(), want, rtol=1e-6, atol=1e-6)


def test_the_eager_form_runs_until_the_plain_one_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    monkeypatch.setattr(passes, "no_compiler", lambda: None)
    add = passes.Pass(lambda x: x + 1, eager=lambda x: x + 2)
    large = torch.zeros(2, passes.LEAST_ELEMENTS // 2)
    assert add(large).max() == 2 and add(large[:, :2]).max() == 2
    with passes.at_once():
        assert add(large).max() == 1
