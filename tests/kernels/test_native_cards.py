"""torch's products that only a card has, in the layouts that its tests and packers state.

Each stand-in takes what torch's own documentation or tests hand over and computes in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from fusequant.kernels import ops
from fusequant.kernels.backends import _native_cards as cards
from fusequant.kernels.backends import reference, torch_native
from fusequant.kernels.constraints import Hip

Tensor = torch.Tensor
E4M3 = torch.float8_e4m3fn


def close(got: Tensor, want: Tensor, error: float) -> None:
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert (got.double() - want.double()).norm() <= error * want.double().norm()


@pytest.mark.parametrize(("rows", "blocks"), ((4, 4), (5, 3), (1, 1)))
def test_block_scales_are_handed_over_as_cublas_reads_them(
    rows: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scaled_mm(
        a: Tensor, b: Tensor, scale_a: Tensor, kind_a: Any, scale_b: Tensor, kind_b: Any,
        output_dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        """A scale (M, K / 128) of stride (1, M); B's (L4, N / 128) of stride (1, L4)."""
        kinds = functional.ScalingType
        assert (kind_a, kind_b) == (kinds.BlockWise1x128, kinds.BlockWise128x128)
        (m, k), n, filled = a.shape, b.shape[1], -(-blocks // 4) * 4
        assert a.dtype == b.dtype == E4M3 and m % 4 == 0 and b.stride() == (1, k)
        assert scale_a.shape == (m, blocks) and scale_a.t().is_contiguous()
        assert scale_b.shape == (filled, n // 128) and scale_b.t().is_contiguous()
        wide_b = scale_b[:blocks].repeat_interleave(128, 0).repeat_interleave(128, 1)
        left = a.float() * scale_a.repeat_interleave(128, 1)
        return (left @ (b.float() * wide_b)).to(output_dtype)

    monkeypatch.setattr(functional, "scaled_mm", scaled_mm)
    x, bias = torch.randn(rows, 128 * blocks).bfloat16(), torch.randn(256)
    spread = torch.logspace(-1, 1, 256)[:, None] * torch.logspace(-1, 1, 128 * blocks)
    weight, scale = reference.quantize_fp8_block128(torch.randn(256, 128 * blocks) * spread)
    want = reference.fp8_block128_linear(x, weight, bias, scale)
    close(cards.fp8_block128_linear(x, weight, bias, scale), want, 0.006)


@pytest.mark.parametrize("zeros", (True, False))
def test_four_bits_are_packed_with_the_even_input_high(
    zeros: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(packed: Tensor, tiles: int) -> tuple[Tensor, int]:
        assert packed.dtype == torch.uint8 and 256 % (16 * tiles) == 0
        return packed, tiles

    def product(x: Tensor, packed: tuple[Tensor, int], group: int, pairs: Tensor) -> Tensor:
        """(code - 8) * scale + zero, pairs (K / group, N, 2) bf16."""
        stored = packed[0]
        assert pairs.dtype == torch.bfloat16 and pairs.is_contiguous()
        codes = torch.stack((stored >> 4, stored & 15), -1).reshape(stored.shape[0], -1).float() - 8
        scale, zero = pairs.float().unbind(-1)
        wide = codes * scale.t().repeat_interleave(group, 1)
        return (x.float() @ (wide + zero.t().repeat_interleave(group, 1)).T).to(x.dtype)

    monkeypatch.setattr(torch, "_convert_weight_to_int4pack", convert)
    monkeypatch.setattr(torch, "_weight_int4pack_mm", product)
    x, bias = torch.randn(3, 256).bfloat16(), torch.randn(40)
    weight, scale = reference.quantize_int4(torch.randn(40, 256), 64, torch.bfloat16)
    zero = torch.randn(scale.shape).mul(0.1).bfloat16() if zeros else None
    want = reference.int4_linear(x, weight, bias, scale, zero, 64)
    close(cards.int4_linear(x, weight, bias, scale, zero, 64), want, 0.006)


def test_packed_int8_is_torch_s_own_on_a_cpu_too() -> None:
    x, bias = torch.randn(3, 64).bfloat16(), torch.randn(32)
    weight, scale = reference.quantize_int8(torch.randn(32, 64))
    want = reference.int8_weight_only_linear(x, weight, bias, scale)
    close(cards.int8_weight_only_linear(x, weight.clone(), bias, scale), want, 0.008)


def test_an_amd_device_is_taken_by_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    rule, card = Hip(("gfx94", "gfx12")), SimpleNamespace(device=SimpleNamespace(type="cuda"))
    assert rule.check(torch.ones(1)) == "needs gfx94 or gfx12, this is cpu"
    monkeypatch.setattr(torch.version, "hip", None)
    assert rule.check(card) == "needs gfx94 or gfx12, this is cuda"  # type: ignore[arg-type]
    monkeypatch.setattr(torch.version, "hip", "7.0")
    for arch, taken in (("gfx942:sramecc+", True), ("gfx1201", True), ("gfx1100", False)):
        facts = SimpleNamespace(gcnArchName=arch)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, f=facts: f)
        assert (rule.check(card) is None) == taken  # type: ignore[arg-type]


AMD = ("fp8_linear", "fp8_row_linear", "int8_linear", "int8_convrot_linear")


@pytest.mark.parametrize("op", AMD)
def test_what_amd_multiplies_is_claimed_behind_a_trial(op: str) -> None:
    claims = [c for c in torch_native.BACKEND.claims if c.op == op and "gfx12" in c.describe()]
    assert len(claims) == 1 and "a trial product" in claims[0].describe()


def test_a_cpu_is_never_handed_a_card_s_product() -> None:
    weight, scale = ops.quantize_fp8_block128(torch.randn(128, 128))
    run: Callable[..., Tensor] = ops.fp8_block128_linear
    assert run(torch.randn(2, 128).bfloat16(), weight, scale).isfinite().all()
    told = [c.check({"x": torch.ones(2, 128), "weight": weight, "group_size": 128})
            for c in cards.CLAIMS]  # fmt: skip
    assert all(reason and "needs" in reason for reason in told)
