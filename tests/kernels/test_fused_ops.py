"""Activations made and quantized, and products with a low-rank branch, against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fusequant.kernels import ops
from fusequant.kernels.registry import NoBackend, backends, noted, use_backend

Tensor = torch.Tensor
E4M3 = torch.float8_e4m3fn
RANK = 7


def normal(x: Tensor) -> Tensor:
    """LayerNorm without gain and shift, as its formula reads."""
    centered = x - x.mean(1, keepdim=True)
    return centered / (centered.square().mean(1, keepdim=True) + 1e-6).sqrt()


BEFORE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "layer_norm": normal,
    "silu": lambda x: x / (1 + (-x).exp()),
    "gelu": lambda x: 0.5 * x * (1 + (x / 2**0.5).erf()),
    "gelu_tanh": lambda x: 0.5 * x * (1 + ((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)).tanh()),
}
KINDS = ((torch.int8, 0), (torch.int8, 128), (E4M3, 0), (E4M3, 128))


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_codes_and_scales_stand_for_what_stood_before(
    kind: tuple[torch.dtype, int], before: str
) -> None:
    dtype, group = kind
    x = torch.randn(2, 3, 300)
    x[0, 1] = 0.0
    codes, scale = ops.quantize_activations(x, dtype, group, before)
    assert (codes.shape, codes.dtype) == ((6, 300), dtype)
    assert scale.shape == (6, 3 if group else 1) and scale.dtype == torch.float32
    value = BEFORE[before](x.double().reshape(6, 300))
    spread = scale.double().repeat_interleave(group or 300, 1)[:, :300]
    # half a step of int8, or of a code of three bits and a hidden one, above the subnormals
    step = 0.5 if dtype == torch.int8 else (codes.double().abs() / 16).clamp(min=2.0**-10)
    assert ((codes.double() * spread - value).abs() <= spread * step * 1.001 + 1e-9).all()
    largest = 127 if dtype == torch.int8 else 448
    full = codes.double().abs().amax(1)
    assert (full[[0, 2, 3, 4, 5]] == largest).all()


def test_gain_and_shift_follow_the_norm() -> None:
    x, gain, shift = torch.randn(4, 64) + 2, torch.randn(64), torch.randn(64)
    codes, scale = ops.quantize_activations(x, torch.int8, 0, "layer_norm", gain, shift)
    value = normal(x.double()) * gain + shift
    assert ((codes * scale.double() - value).abs() <= scale * 0.501).all()


QUANTIZE = {
    "int8": (ops.quantize_int8, ops.dequantize_int8, ops.int8_low_rank_linear),
    "fp8_row": (ops.quantize_fp8_row, ops.dequantize_fp8, ops.fp8_row_low_rank_linear),
    "fp8_block128": (
        ops.quantize_fp8_block128,
        ops.dequantize_fp8_block128,
        ops.fp8_block128_low_rank_linear,
    ),
    "int4": (ops.quantize_int4, ops.dequantize_int4, ops.int4_low_rank_linear),
}


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32), ids=str)
@pytest.mark.parametrize("backend", ("reference", "torch_native"))
@pytest.mark.parametrize("name", QUANTIZE)
def test_a_branch_is_added_within_the_bound(name: str, backend: str, dtype: torch.dtype) -> None:
    quantize, dequantize, run = QUANTIZE[name]
    x, bias = torch.randn(2, 17, 256).to(dtype), torch.randn(128).to(dtype)
    codes, scale = quantize(torch.randn(128, 256))  # type: ignore[operator]
    down, up = torch.randn(RANK, 256) / 16, torch.randn(128, RANK) * 4
    with use_backend(backend), noted() as told:
        got = run(x, codes, scale, down, up, bias=bias)  # type: ignore[operator]
    assert told == [(f"{name}_low_rank_linear", backend)]
    weight = dequantize(codes, scale).double()  # type: ignore[operator]
    branch = x.double() @ down.to(dtype).double().T @ up.to(dtype).double().T
    want = x.double() @ weight.T + bias.double() + branch
    claims = [c for c in backends()[backend].claims if c.op == f"{name}_low_rank_linear"]
    error = max(claim.error or 0.0 for claim in claims)
    assert (got.dtype, got.shape) == (dtype, want.shape)
    assert (got.double() - want).norm() <= error * want.norm()
    assert (got.double() - (want - branch)).norm() > 0.5 * branch.norm()  # it is there


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32), ids=str)
@pytest.mark.parametrize("backend", ("reference", "torch_native"))
def test_a_branch_is_added_to_what_another_product_gave(backend: str, dtype: torch.dtype) -> None:
    x, y = torch.randn(2, 700, 3000).to(dtype), torch.randn(2, 700, 40).to(dtype)
    down, up = torch.randn(RANK, 3000) / 55, torch.randn(40, RANK)
    want = y.double() + x.double() @ down.to(dtype).double().T @ up.to(dtype).double().T
    with use_backend(backend), noted() as told:
        got = ops.add_low_rank(y, x, down, up)
    assert told == [("add_low_rank", backend)]
    assert (got.dtype, got.shape) == (dtype, want.shape)
    assert (got.double() - want).norm() <= 0.006 * want.norm()
    assert torch.equal(ops.add_low_rank(y[:, :0], x[:, :0], down, up), y[:, :0])


def test_a_backend_without_the_op_says_so() -> None:
    codes, scale = ops.quantize_int8(torch.randn(8, 64))
    sides = torch.randn(2, 64), torch.randn(8, 2)
    with use_backend("kitchen"), pytest.raises(NoBackend, match="int8_low_rank_linear"):
        ops.int8_low_rank_linear(torch.randn(3, 64), codes, scale, *sides)
