"""Our Triton kernels in Triton's interpreter against the reference; test_triton.py runs this file.

The interpreter has to be on before Triton is imported, hence a process of its own:
`TRITON_INTERPRET=1 python -m pytest tests/kernels/interpreted.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fusequant.kernels import ops
from fusequant.kernels.backends import triton as triton_backend
from fusequant.kernels.registry import backends, noted, use_backend

Tensor = torch.Tensor
E4M3 = torch.float8_e4m3fn
# (M, N, K): one row, an odd N, K that neither a tile nor 16 divides, several programs
SIZES = ((1, 37, 256), (19, 130, 200), (70, 48, 256))
RANK = 5


def numbers(*shape: int, seed: int = 3) -> Tensor:
    """Normal numbers with two channels a hundred times as large."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    values[..., 3] *= 100.0
    values[..., -1] *= 100.0
    return values


def plain(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stored(op: str, weight: Tensor) -> tuple[Tensor, ...]:
    """Codes and scales as the reference makes them."""
    with use_backend("reference"):
        if "int8" in op:
            return ops.quantize_int8(weight)
        if "block128" in op:
            return ops.quantize_fp8_block128(weight)
        if "fp8" in op:
            return ops.quantize_fp8_row(weight)
        return ops.quantize_int4(weight, 128, torch.bfloat16)


def dequantized(op: str, codes: tuple[Tensor, ...]) -> Tensor:
    """The weight that the codes stand for."""
    with use_backend("reference"):
        if "int8" in op:
            return ops.dequantize_int8(*codes)
        if "block128" in op:
            return ops.dequantize_fp8_block128(*codes)
        return ops.dequantize_fp8(*codes) if "fp8" in op else ops.dequantize_int4(*codes)


def both(call: Callable[[], Any]) -> tuple[Any, Any]:
    """The result on triton and on the reference."""
    with use_backend("triton"), noted() as told:
        got = call()
    assert told and {backend for _, backend in told} == {"triton"}
    with use_backend("reference"):
        return got, call()


LINEAR = (
    "int8_linear", "fp8_row_linear", "fp8_block128_linear", "int4_linear",
    "int8_low_rank_linear", "fp8_row_low_rank_linear", "fp8_block128_low_rank_linear",
    "int4_low_rank_linear",
)  # fmt: skip


@pytest.mark.parametrize("op", LINEAR)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("spread", (plain, numbers), ids=("plain", "outliers"))
def test_a_product_is_the_reference_s(
    op: str, size: tuple[int, int, int], spread: Callable[..., Tensor]
) -> None:
    rows, outputs, inputs = size
    if "int4" in op:
        inputs = 256
    x, weight = spread(rows, inputs).bfloat16(), plain(outputs, inputs, seed=4)
    bias = plain(outputs, seed=5).bfloat16()
    codes = stored(op, weight)
    sides = (plain(RANK, inputs, seed=6), plain(outputs, RANK, seed=7)) if "low" in op else ()
    got, want = both(lambda: getattr(ops, op)(x, *codes, *sides, bias=bias))
    assert (got.dtype, got.shape) == (torch.bfloat16, (rows, outputs))
    # the same codes on both sides: what differs is the order of the sums and one rounding
    assert (got.double() - want.double()).norm() <= 0.005 * want.double().norm()
    if spread is plain:
        exact = x.double() @ dequantized(op, codes).double().T + bias.double()
        for branch in (sides,) if sides else ():
            down, up = (side.bfloat16().double() for side in branch)
            exact += x.double() @ down.T @ up.T
        bound = next(claim.error for claim in backends()["triton"].claims if claim.op == op)
        assert bound is not None
        assert (got.double() - exact).norm() <= 2 * bound * exact.norm()


@pytest.mark.parametrize("op", ("int8_weight_only_linear", "fp8_weight_only_linear"))
def test_a_weight_only_product_keeps_its_bound(op: str) -> None:
    x, weight, bias = plain(19, 200).bfloat16(), plain(37, 200, seed=4), plain(37).bfloat16()
    codes, scale = stored(op, weight)
    got, want = both(lambda: getattr(ops, op)(x, codes, scale, bias))
    bound = next(c.error for c in backends()["triton"].claims if c.op == op)
    assert bound is not None and (got.double() - want.double()).norm() <= bound * want.norm()


@pytest.mark.parametrize("zeros", (False, True))
@pytest.mark.parametrize("group", (32, 256))
def test_four_bit_groups_of_other_sizes_and_zeros(group: int, zeros: bool) -> None:
    x, weight = plain(5, 512).bfloat16(), plain(70, 512, seed=4)
    with use_backend("reference"):
        codes, scale = ops.quantize_int4(weight, group, torch.bfloat16)
    zero = plain(*scale.shape).mul(0.05).bfloat16() if zeros else None
    got, want = both(lambda: ops.int4_linear(x, codes, scale, zero, group))
    assert (got.double() - want.double()).norm() <= 0.005 * want.norm()


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32), ids=str)
def test_a_rotated_weight_is_multiplied_by_rotated_rows(dtype: torch.dtype) -> None:
    x, weight, bias = plain(19, 256).to(dtype), plain(37, 256, seed=4), plain(37)
    with use_backend("reference"):
        codes, scale = ops.quantize_int8_convrot(weight, 64)
    got, want = both(lambda: ops.int8_convrot_linear(x, codes, scale, 64, bias))
    assert (got.dtype, got.shape) == (dtype, (19, 37))
    # bfloat16 rounds the rotated rows once more
    bound = 0.008 if dtype == torch.bfloat16 else 0.001
    assert (got.double() - want.double()).norm() <= bound * want.double().norm()


@pytest.mark.parametrize("one_scale", (False, True))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32), ids=str)
def test_torch_s_product_between_two_passes_of_ours(
    dtype: torch.dtype, one_scale: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Turing gets, also in several runs of rows, and with a bias that is not in one piece."""
    monkeypatch.setattr(triton_backend, "BLOCK_BYTES_ELSEWHERE", 32 * 4 * 130)
    x, weight = plain(70, 256).to(dtype), plain(130, 256, seed=4)
    bias = plain(260, seed=5)[::2].to(dtype)
    with use_backend("reference"):
        codes, scale = ops.quantize_int8(weight)
        scale = scale.amax() if one_scale else scale
        want = ops.int8_linear(x, codes, scale, bias)
    got = triton_backend.int8_linear_by_torch(x, codes, bias, scale)
    assert (got.dtype, got.shape) == (dtype, (70, 130))
    bound = 0.005 if dtype == torch.bfloat16 else 0.001
    assert (got.double() - want.double()).norm() <= bound * want.double().norm()
    with use_backend("reference"):
        codes, scale = ops.quantize_int8_convrot(weight, 64)
        want = ops.int8_convrot_linear(x, codes, scale, 64, bias)
    got = triton_backend.int8_convrot_linear_by_torch(x, codes, bias, scale, 64)
    bound = 0.008 if dtype == torch.bfloat16 else 0.001  # the rotated rows are rounded once more
    assert (got.double() - want.double()).norm() <= bound * want.double().norm()


@pytest.mark.parametrize("op", ("int8_low_rank_linear", "int4_low_rank_linear"))
def test_what_does_not_lie_in_one_piece_is_read_rightly(op: str) -> None:
    """Each second number of a bias, of both sides of a branch, and of x's columns."""
    x, weight = plain(5, 512).bfloat16()[:, ::2], plain(40, 256, seed=4)
    bias = plain(80, seed=5).bfloat16()[::2]
    sides = plain(RANK, 512, seed=6)[:, ::2], plain(40, 2 * RANK, seed=7)[:, ::2]
    codes = stored(op, weight)
    got, want = both(lambda: getattr(ops, op)(x, *codes, *sides, bias=bias))
    assert (got.double() - want.double()).norm() <= 0.005 * want.double().norm()


def test_a_norm_s_sides_may_be_parts_of_others() -> None:
    x, sides = plain(3, 200), plain(200, 2, seed=9)
    got, want = both(
        lambda: ops.quantize_activations(x, torch.int8, 0, "layer_norm", *sides.unbind(1))
    )
    torch.testing.assert_close(got[1], want[1], rtol=1e-5, atol=1e-12)
    assert (got[0] != want[0]).float().mean() < 0.01


BEFORE = ("none", "layer_norm", "silu", "gelu", "gelu_tanh")
KINDS = ((torch.int8, 0), (E4M3, 0), (E4M3, 128), (torch.int8, 128))


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_activations_are_quantized_in_one_pass(kind: tuple[torch.dtype, int], before: str) -> None:
    dtype, group = kind
    x = numbers(3, 200).bfloat16() if before == "none" else plain(3, 200).bfloat16()
    x[1] = 0.0
    sides = (plain(200), plain(200, seed=9)) if before == "layer_norm" else (None, None)
    got, want = both(lambda: ops.quantize_activations(x, dtype, group, before, *sides))
    assert (got[0].dtype, got[0].shape, got[1].shape) == (dtype, x.shape, want[1].shape)
    if before == "none":
        assert torch.equal(got[0].view(torch.uint8), want[0].view(torch.uint8))
        assert torch.equal(got[1], want[1])
        return
    torch.testing.assert_close(got[1], want[1], rtol=1e-5, atol=1e-12)
    # a number that lands on the border of two codes may take the other one
    off = (got[0].float() - want[0].float()).abs()
    assert (off > 0).float().mean() < 0.01
    assert (off <= (1.0 if dtype == torch.int8 else want[0].float().abs() / 8 + 2**-9)).all()


def test_a_whole_layer_norm_is_torch_s_own() -> None:
    """Against float64, apart from the reference's code."""
    x, gain, shift = plain(4, 256) * 3 + 1, plain(256), plain(256, seed=9)
    with use_backend("triton"):
        codes, scale = ops.quantize_activations(x, torch.int8, 0, "layer_norm", gain, shift)
    wide = x.double()
    centered = wide - wide.mean(1, keepdim=True)
    value = centered / (centered.square().mean(1, keepdim=True) + 1e-6).sqrt() * gain + shift
    assert ((codes.double() * scale - value).abs() <= scale * 0.5001).all()


def test_every_rounding_to_e4m3_is_torch_s() -> None:
    """Scale 1: halves between codes, subnormals, both signs, and numbers at random."""
    values = torch.arange(127, dtype=torch.uint8).view(E4M3).float()
    halves = (values[:-1] + values[1:]) / 2
    near = torch.cat((halves, halves * (1 + 2**-20), halves * (1 - 2**-20)))
    rest = plain(512).mul(2.0) * torch.logspace(-4, 2, 512)
    row = torch.cat((values, near, -values, -near, rest, torch.tensor([448.0]))).clamp(-448, 448)
    with use_backend("triton"):
        codes, scale = ops.quantize_fp8_row(row[None, :])
    assert scale.item() == 1.0
    assert torch.equal(codes[0].view(torch.uint8), row.to(E4M3).view(torch.uint8))


@pytest.mark.parametrize("dtype", (E4M3, torch.float8_e5m2), ids=str)
def test_every_code_widens_exactly(dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(2, 128)
    with use_backend("triton"):
        got = ops.dequantize_fp8(codes)
    want = codes.float()
    assert torch.equal(got.isnan(), want.isnan())
    known = ~want.isnan()
    assert torch.equal(got[known].view(torch.int32), want[known].view(torch.int32))


@pytest.mark.parametrize("bad", (float("nan"), float("inf"), float("-inf")))
def test_what_is_not_finite_shows_in_its_row_s_scale(bad: float) -> None:
    weight = plain(4, 128)
    weight[2, 5] = bad
    with use_backend("triton"):
        for quantize in (ops.quantize_int8, ops.quantize_fp8_row):
            assert quantize(weight)[1].isfinite().flatten().tolist() == [True, True, False, True]


def calls() -> dict[str, tuple[Any, ...]]:
    """Arguments for each operator; the types say which of them are tensors."""
    x, weight = plain(3, 128), plain(20, 128, seed=4)
    (int8, s8), (fp8, _), (four, s4) = (stored(o, weight) for o in ("int8", "fp8", "int4"))
    (x8, sx8), (xf, sxf) = stored("int8", x), stored("fp8", x)
    middle, up, bias = plain(3, RANK).bfloat16(), plain(20, RANK).bfloat16(), plain(20).bfloat16()
    tile = torch.ones(1, 1)
    return {
        "quantize_rows": (x, None, None, True, 0, "none", 0.0, 0.0, 1e-30),
        "dequantize_rows": (int8, s8, torch.bfloat16),
        "scale_sums": (torch.ones(3, 20, dtype=torch.int32), sx8, s8, bias, torch.bfloat16),
        "row_scaled": (x8, int8, sx8, s8, bias, middle, up, torch.bfloat16),
        "block128": (xf, fp8, sxf, tile, None, None, None, torch.float16),
        "int4": (x.bfloat16(), four, s4, None, bias, None, None, 128),
    }


@pytest.mark.parametrize("name", calls())
def test_an_operator_is_what_a_compiler_expects(name: str) -> None:
    from fusequant.kernels.triton_kernels.operators import operators

    run, arguments = getattr(operators(), name), calls()[name]
    # torch's schema test compares tensors before and after, which it cannot do in fp8
    fp8 = any(isinstance(a, torch.Tensor) and a.dtype == E4M3 for a in arguments)
    checks = ("test_faketensor",) if fp8 else ("test_schema", "test_faketensor")
    torch.library.opcheck(run.default, arguments, test_utils=checks)
    real = run(*arguments)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments]
        fake = run(*fakes)
    for got, want in zip(
        fake if isinstance(fake, tuple) else (fake,),
        real if isinstance(real, tuple) else (real,),
        strict=True,
    ):
        assert (got.shape, got.dtype, got.stride()) == (want.shape, want.dtype, want.stride())


def test_a_compiled_layer_holds_the_operators_without_a_break() -> None:
    from fusequant.kernels.triton_kernels.operators import operators

    kernels, weight = operators(), plain(20, 128, seed=4)
    codes, scale = stored("int8", weight)

    def layer(x: Tensor) -> Tensor:
        xq, sx = kernels.quantize_rows(x, None, None, True, 0, "silu", 0.0, 0.0, 1e-30)
        return kernels.row_scaled(xq, codes, sx, scale, None, None, None, torch.float32) * 2

    x = plain(3, 128)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(compiled(x), layer(x))
