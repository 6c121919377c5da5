"""int8 by our own loop for AVX2: exact sums, any number of rows, a reason where it is not there."""

from __future__ import annotations

import pytest
import torch

from fusequant.kernels import cpu, cpu_kernels, ops, registry
from fusequant.kernels.backends import avx2
from fusequant.kernels.registry import NoBackend, noted, use_backend

Tensor = torch.Tensor
CPU = torch.device("cpu")
ready = pytest.mark.skipif(
    not cpu.is_x86() or "avx2" not in cpu.features() or cpu_kernels.why_not() is not None,
    reason="this processor has no AVX2, or there is no compiler",
)


def codes(rows: int, inputs: int, seed: int = 0) -> Tensor:
    """Every code there is, -128 included."""
    source = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, (rows, inputs), generator=source).to(torch.int8)


@ready
@pytest.mark.parametrize("rows", (1, 2, 5, 6, 385, 391))
@pytest.mark.parametrize(("outputs", "inputs"), ((16, 16), (48, 512), (32, 1040)))
def test_sums_are_exact(rows: int, outputs: int, inputs: int) -> None:
    x, weight = codes(rows, inputs), codes(outputs, inputs, 1)
    scale = torch.rand(outputs) + 0.5
    exact = (x.double() @ weight.double().T).float() * scale
    assert torch.equal(cpu_kernels.int8_product(x, weight, scale), exact)


@ready
def test_the_largest_sums_do_not_overflow() -> None:
    x, weight = (torch.full((size, 4096), -128, dtype=torch.int8) for size in (7, 16))
    found = cpu_kernels.int8_product(x, weight, torch.ones(16))
    assert (found == 128.0 * 128 * 4096).all()


@ready
def test_memory_that_begins_anywhere_is_read() -> None:
    held = torch.zeros(16 * 64 + 1, dtype=torch.int8)
    held[1:] = codes(16, 64).reshape(-1)
    weight, x = held[1:].view(16, 64), codes(9, 128)[:, ::2]
    exact = (x.double() @ weight.double().T).float()
    assert torch.equal(cpu_kernels.int8_product(x, weight, torch.ones(16)), exact)


@ready
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32), ids=str)
@pytest.mark.parametrize("group_size", (0, 256))
def test_a_layer_is_that_of_the_reference(dtype: torch.dtype, group_size: int) -> None:
    if cpu.features().intersection(cpu.INT8_UNITS):
        pytest.skip("onednn is for this processor")
    x, bias = torch.randn(3, 11, 1024).to(dtype), torch.randn(1024).to(dtype)
    weight = torch.randn(1024, 1024) / 32
    made = (
        ops.quantize_int8_convrot(weight, group_size) if group_size else ops.quantize_int8(weight)
    )
    more = (group_size, bias) if group_size else (bias,)
    run = ops.int8_convrot_linear if group_size else ops.int8_linear
    with use_backend("avx2"):
        found = run(x, *made, *more)  # type: ignore[operator]
    with use_backend("reference"):
        want = run(x, *made, *more)  # type: ignore[operator]
    assert (found.dtype, found.shape) == (dtype, want.shape)
    assert (found.double() - want.double()).norm() <= 0.003 * want.double().norm()


@ready
def test_small_layers_are_left_to_others() -> None:
    with use_backend("avx2"), pytest.raises(NoBackend, match=r"units|at least 1024"):
        ops.int8_linear(torch.randn(3, 64), codes(32, 64), torch.ones(32))


def test_a_processor_with_int8_units_has_a_better_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "is_x86", lambda: True)
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"avx2", "avx512_vnni"}))
    assert avx2.available() == "this CPU has int8 units: onednn uses them"
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"sse4_2"}))
    assert avx2.available() == "it is for x86 processors with AVX2"


def test_without_a_compiler_torch_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "is_x86", lambda: True)
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"avx2"}))
    monkeypatch.setenv("CXX", "a-compiler-that-is-not-there")
    registry.refusal.cache_clear()
    try:
        with use_backend("avx2"), pytest.raises(NoBackend, match="there is no C\\+\\+ compiler"):
            ops.int8_linear(torch.randn(3, 1024), codes(1024, 1024), torch.ones(1024))
        with noted() as told:
            ops.int8_linear(torch.randn(3, 1024), codes(1024, 1024), torch.ones(1024))
        assert told == [("int8_linear", "torch_native")]
    finally:
        registry.refusal.cache_clear()


@ready
@pytest.mark.parametrize("fault", (RuntimeError("no header\nmore"), ImportError("moved")))
def test_a_loop_that_cannot_be_built_is_a_reason(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def library(name: str) -> None:
        raise fault

    monkeypatch.setattr(cpu_kernels, "library", library)
    avx2.refusal.cache_clear()
    try:
        told = avx2.refusal(CPU)
        assert told is not None and told.startswith("the loop cannot be built: ")
        assert "more" not in told
    finally:
        avx2.refusal.cache_clear()


def test_compiling_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    assert str(cpu_kernels.why_not()).startswith("TORCH_COMPILE_DISABLE is 1")
