"""Weight-only and int8 products on CPUs with other units than this one: plain against fast."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fusequant.kernels import bits, cpu, ops
from fusequant.kernels.backends import _by_rows, _integers
from fusequant.kernels.registry import use_backend

Tensor = torch.Tensor
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
BARE = frozenset({"avx2"})
FULL = frozenset({"avx2", "avx512_f", "avx512_bf16", "avx512_vnni", "amx_int8", "amx_bf16"})
# scheme -> (quantize, dequantize, multiply)
CALLS: dict[str, tuple[Callable[[Tensor], tuple[Tensor, ...]], Callable[..., Tensor], Any]] = {
    "fp8": (ops.quantize_fp8, ops.dequantize_fp8, ops.fp8_weight_only_linear),
    "fp8_e5m2": (
        lambda w: ops.quantize_fp8(w, dtype=E5M2), ops.dequantize_fp8, ops.fp8_weight_only_linear,
    ),
    "fp8_row": (ops.quantize_fp8_row, ops.dequantize_fp8, ops.fp8_row_linear),
    "fp8_block128": (
        ops.quantize_fp8_block128, ops.dequantize_fp8_block128, ops.fp8_block128_linear,
    ),
    "int8_weight_only": (ops.quantize_int8, ops.dequantize_int8, ops.int8_weight_only_linear),
    "int4_g128": (ops.quantize_int4, ops.dequantize_int4, ops.int4_linear),
}  # fmt: skip


@pytest.fixture(params=(BARE, FULL), ids=("bare", "full"))
def units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> frozenset[str]:
    """A processor with few units or with all."""
    found: frozenset[str] = request.param
    monkeypatch.setattr(cpu, "features", lambda: found)
    monkeypatch.setattr(cpu, "is_x86", lambda: True)
    return found


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32), ids=str)
def test_blocks_that_reuse_their_memory_equal_the_plain_product(
    name: str, dtype: torch.dtype, units: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """384 rows in blocks of 128, so that stale numbers of a block would show in the next."""
    small = dict.fromkeys(_by_rows.BLOCK_BYTES, 128 * 256 * 2)
    monkeypatch.setattr(_by_rows, "BLOCK_BYTES", small)
    quantize, dequantize, multiply = CALLS[name]
    weight = torch.randn(384, 256) * torch.logspace(-2, 1, 384)[:, None]
    x, pieces = torch.randn(7, 256).to(dtype), quantize(weight)
    with use_backend("reference"):
        want = x.double() @ dequantize(*pieces).double().T
    with use_backend("torch_native"):
        got = multiply(x, *pieces)
    assert got.dtype == dtype
    # float32 arithmetic all the way is as exact as its last rounding
    exact = name != "int4_g128" and (dtype != torch.bfloat16 or units == BARE)
    ulp = torch.finfo(dtype).eps
    limit = max(0.5 * ulp if exact else 2 * ulp, 2e-6)
    assert (got.double() - want).norm() <= limit * want.norm()


@pytest.mark.parametrize("rows", (1, 40))
def test_int8_without_int8_units_sums_the_same_codes(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_integers, "WIDENED_ROWS", 16)
    weight, x, bias = torch.randn(48, 512), torch.randn(rows, 512), torch.randn(48)
    codes, scale = ops.quantize_int8(weight)
    found = []
    for has in (False, True):
        monkeypatch.setattr(cpu, "multiplies_int8", lambda has=has: has)
        with use_backend("torch_native"):
            found.append(ops.int8_linear(x, codes, scale, bias))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def test_the_dtype_to_multiply_in(units: frozenset[str]) -> None:
    bare = units == BARE
    assert cpu.multiplies_bf16() is not bare and cpu.multiplies_int8() is not bare
    wanted = torch.float32 if bare else torch.bfloat16
    assert _by_rows.compute_dtype("cpu", torch.bfloat16) == wanted
    assert _by_rows.compute_dtype("cpu", torch.float16) == torch.float32
    assert _by_rows.compute_dtype("cuda", torch.bfloat16) == torch.bfloat16


def test_features_are_told_by_an_older_torch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    older = SimpleNamespace(
        _is_avx2_supported=lambda: True,
        _is_avx512_supported=lambda: False,
        _is_vnni_supported=lambda: True,
    )
    monkeypatch.setattr(torch, "cpu", older)
    assert cpu.features.__wrapped__() == {"avx2", "avx512_vnni"}


@pytest.mark.parametrize("widen", (bits.e4m3_to_half, bits.e5m2_to_half))
def test_codes_widen_into_given_memory(widen: Callable[..., Tensor]) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(E4M3)
    room = torch.full((256,), -1, dtype=torch.int16)
    found = widen(codes, room)
    assert found.data_ptr() == room.data_ptr()
    assert torch.equal(found.view(torch.int16), widen(codes).view(torch.int16))
