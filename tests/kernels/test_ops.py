"""Every op on every backend that claims it: the reference's codes and values, linears in bounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch

from fusequant.kernels import ops
from fusequant.kernels.registry import NoBackend, backends, refusal, use_backend

Tensor = torch.Tensor
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# (N, K): one row, odd N, K that nothing divides, whole tiles, partial tiles, no rows
SHAPES = ((1, 256), (37, 256), (48, 128), (5, 100), (256, 384), (130, 200), (0, 256))
CUDA = (pytest.param("cuda", marks=pytest.mark.gpu),) if torch.cuda.is_available() else ()
DEVICES = ("cpu", *CUDA)

MADE: dict[str, Callable[[Tensor], Any]] = {
    "amax": ops.amax,
    "row_amax": ops.row_amax,
    "quantize_fp8": lambda w: (*ops.quantize_fp8(w), *ops.quantize_fp8(w, dtype=E5M2)),
    "quantize_fp8_row": ops.quantize_fp8_row,
    "quantize_fp8_block128": ops.quantize_fp8_block128,
    "quantize_int8": ops.quantize_int8,
    "quantize_int4": lambda w: ops.quantize_int4(w, 128, torch.bfloat16),
    "dequantize_fp8": lambda w: (
        ops.dequantize_fp8(*fp8(w)),
        ops.dequantize_fp8(w.to(E5M2), torch.tensor([0.3], device=w.device)),
    ),
    "dequantize_fp8_block128": lambda w: ops.dequantize_fp8_block128(*block(w)),
    "dequantize_int8": lambda w: ops.dequantize_int8(*int8(w)),
    "dequantize_int8_convrot": lambda w: ops.dequantize_int8_convrot(*int8(w), 16),
    "dequantize_int4": lambda w: ops.dequantize_int4(*int4(w)),
    "quantize_mxfp8": ops.quantize_mxfp8,
    "quantize_nvfp4": ops.quantize_nvfp4,
    "quantize_w4a4": lambda w: ops.quantize_w4a4(w, 64),
    "w4a8_codebook": lambda w: ops.w4a8_codebook(w, 16, 64),
    "quantize_w4a8": lambda w: ops.quantize_w4a8(w, LEVELS.to(w.device), 16, 64),
    "dequantize_mxfp8": lambda w: ops.dequantize_mxfp8(*mxfp8(w)),
    "dequantize_nvfp4": lambda w: ops.dequantize_nvfp4(*nvfp4(w)),
    "dequantize_w4a4": lambda w: ops.dequantize_w4a4(*w4a4(w), 64),
    "dequantize_w4a8": lambda w: (
        ops.dequantize_w4a8(*w4a8(w), LEVELS.to(w.device), 64),
        ops.dequantize_w4a8(*w4a8(w), None, 64),
    ),
}
LINEAR: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "linear": (lambda x, w, b: ops.linear(x, w, b), lambda w: w),
    "fp8_linear": (
        lambda x, w, b: ops.fp8_linear(x, *fp8(w), b),
        lambda w: ops.dequantize_fp8(*fp8(w)),
    ),
    "fp8_weight_only_linear": (
        lambda x, w, b: ops.fp8_weight_only_linear(x, *fp8_row(w), b),
        lambda w: ops.dequantize_fp8(*fp8_row(w)),
    ),
    "fp8_row_linear": (
        lambda x, w, b: ops.fp8_row_linear(x, *fp8_row(w), b),
        lambda w: ops.dequantize_fp8(*fp8_row(w)),
    ),
    "fp8_block128_linear": (
        lambda x, w, b: ops.fp8_block128_linear(x, *block(w), b),
        lambda w: ops.dequantize_fp8_block128(*block(w)),
    ),
    "int8_linear": (
        lambda x, w, b: ops.int8_linear(x, *int8(w), b),
        lambda w: ops.dequantize_int8(*int8(w)),
    ),
    "int8_packed_linear": (
        lambda x, w, b: ops.int8_linear(x, *packed(w), b),
        lambda w: ops.dequantize_int8(*int8(w)),
    ),
    "int8_weight_only_linear": (
        lambda x, w, b: ops.int8_weight_only_linear(x, *int8(w), b),
        lambda w: ops.dequantize_int8(*int8(w)),
    ),
    "int8_convrot_linear": (
        lambda x, w, b: ops.int8_convrot_linear(x, *rotated(w), 16, b),
        lambda w: ops.dequantize_int8_convrot(*rotated(w), 16),
    ),
    "int4_linear": (
        lambda x, w, b: ops.int4_linear(x, *int4(w), bias=b),
        lambda w: ops.dequantize_int4(*int4(w)),
    ),
    "mxfp8_linear": (
        lambda x, w, b: ops.mxfp8_linear(x, *mxfp8(w), b),
        lambda w: ops.dequantize_mxfp8(*mxfp8(w)),
    ),
    "nvfp4_linear": (
        lambda x, w, b: ops.nvfp4_linear(x, *nvfp4(w), b),
        lambda w: ops.dequantize_nvfp4(*nvfp4(w)),
    ),
    "w4a4_linear": (
        lambda x, w, b: ops.w4a4_linear(x, *w4a4(w), 64, b),
        lambda w: ops.dequantize_w4a4(*w4a4(w), 64),
    ),
    "w4a8_linear": (
        lambda x, w, b: ops.w4a8_linear(x, *w4a8(w), LEVELS.to(w.device), 64, b),
        lambda w: ops.dequantize_w4a8(*w4a8(w), LEVELS.to(w.device), 64),
    ),
}
# what the stored codes of these are filled up to, so that a layer of them is (N, K) as it stands
WHOLE = {"mxfp8_linear": 32, "nvfp4_linear": 16}
GROUPS = {"int4": 128, "convrot": 16, "w4a": 64}
ROWS: tuple[tuple[int, ...], ...] = ((), (1,), (2, 19), (0,))
CODES = torch.ones(4, 64, dtype=torch.int8)
BYTES, ONE = torch.zeros(3, 4, dtype=torch.uint8), torch.ones(1)
LEVELS = torch.linspace(-0.97, 0.96, 16)
ROTATIONS = ("rotate_groups", "quantize_int8_convrot")


def made(make: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """The reference's codes and scales, whatever backend is in force."""

    def run(weight: Tensor) -> Any:
        with use_backend("reference"):
            return make(weight)

    return run


fp8, fp8_row, block = (
    made(ops.quantize_fp8),
    made(ops.quantize_fp8_row),
    made(ops.quantize_fp8_block128),
)
int8, int4 = made(ops.quantize_int8), made(ops.quantize_int4)
mxfp8, nvfp4 = made(ops.quantize_mxfp8), made(ops.quantize_nvfp4)
w4a4 = made(lambda w: ops.quantize_w4a4(w, 64))
w4a8 = made(lambda w: ops.quantize_w4a8(w, LEVELS.to(w.device), 16, 64))
rotated = made(lambda w: ops.quantize_int8_convrot(w, 16))


def packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The reference's codes in the order of the backend in force."""
    codes, scale = int8(weight)
    return ops.pack_int8(codes), scale


def claims(names: Any, *besides: str) -> list[tuple[str, str]]:
    """(backend, op) for every claim on one of the ops, besides those of some backends."""
    found = {
        (backend.name, claim.op): None
        for backend in backends().values()
        for claim in backend.claims
        if claim.op in names and not refusal(backend.name) and backend.name not in besides
    }
    return list(found)


def numbers(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)


def flat(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def raw(result: Tensor) -> Tensor:
    return result.reshape(-1).view(torch.uint8)


def on(backend: str, call: Callable[[], Any]) -> Any:
    """The result on `backend`, or None for arguments that it does not claim."""
    with use_backend(backend):
        try:
            return call()
        except NoBackend as refused:
            assert refused.reasons.keys() == {backend}
            return None


def takes(op: str, k: int) -> bool:
    """Whether the op's group size divides k."""
    return k % next((size for part, size in GROUPS.items() if part in op), 1) == 0


def assert_same_but_for_last_bits(got: Tensor, want: Tensor) -> None:
    """On a card torch divides by a plain number as a product with its reciprocal, a kernel divides:
    a scale may differ in its last bit, and a number between two codes may take the other one."""
    if got.dtype == torch.float32:
        torch.testing.assert_close(got, want, rtol=3e-7, atol=0.0)
        return
    same = (raw(got) == raw(want)).float()
    assert not same.numel() or same.mean() > 0.99


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("backend", "op"), claims(MADE, "reference"))
def test_codes_and_values_equal_the_reference(
    backend: str, op: str, dtype: torch.dtype, device: str
) -> None:
    ran = 0
    for shape in SHAPES:
        if not takes(op, shape[1]):
            continue
        weight = numbers(shape, dtype, device)
        with use_backend("reference"):
            wanted = flat(MADE[op](weight))
        result = on(backend, lambda weight=weight: MADE[op](weight))
        if result is None:
            continue
        ran += 1
        for got, want in zip(flat(result), wanted, strict=True):
            assert (got.dtype, got.shape, got.is_contiguous()) == (want.dtype, want.shape, True)
            if device != "cpu" and op.startswith("quantize_"):
                assert_same_but_for_last_bits(got, want)
            else:
                assert torch.equal(raw(got), raw(want)), shape
    if not ran and device != "cpu":
        pytest.skip(f"{backend} claims no {op} of {dtype} on {device}")
    assert ran


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", (16, 64, 256))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("backend", "op"), claims(ROTATIONS))
def test_a_rotation_is_the_matrix_product(
    backend: str, op: str, dtype: torch.dtype, size: int, device: str
) -> None:
    weight = numbers((9, 512), dtype, device)
    with use_backend("reference"):
        want = ops.rotate_groups(weight, size)
        codes, scale = ops.quantize_int8(want)
    rotated_by = on(backend, lambda: getattr(ops, op)(weight, size))
    if rotated_by is None and device != "cpu":
        pytest.skip(f"{backend} claims no {op} of {dtype} on {device}")
    if op == "rotate_groups":
        got = rotated_by
        assert (got - want).abs().max() < 3e-6
        back = on(backend, lambda: ops.rotate_groups(got, size))
        assert (back - weight.float()).abs().max() < 6e-6
        return
    got_codes, got_scale = rotated_by
    torch.testing.assert_close(got_scale, scale, rtol=1e-6, atol=0)
    assert (got_codes.int() - codes.int()).abs().max() <= 1
    assert (got_codes != codes).float().mean() < 1e-3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("backend", "op"), claims(LINEAR))
def test_a_linear_keeps_its_bound_against_float64(
    backend: str, op: str, dtype: torch.dtype, device: str
) -> None:
    run, dequantized = LINEAR[op]
    bound = max(claim.error or 0.0 for claim in backends()[backend].claims if claim.op == op)
    ran = 0
    for shape, rows in product(((1, 256), (37, 256), (48, 112), (256, 384)), ROWS):
        if not takes(op, shape[1]) or any(side % WHOLE.get(op, 1) for side in shape):
            continue
        weight, bias = numbers(shape, dtype, device), numbers(shape[:1], dtype, device) * 0.1
        x = numbers((shape[1], *rows), dtype, device).movedim(0, -1)  # not contiguous
        got = on(backend, partial(run, x, weight, bias))
        if got is None:
            continue
        ran += 1
        with use_backend("reference"):
            exact = dequantized(weight).double()
        want = x.double() @ exact.T + bias.double()
        assert (got.dtype, got.shape) == (dtype, want.shape)
        slack = 1.0 if want.numel() >= 256 else 4.0  # a handful of outputs scatters
        assert (got.double() - want).norm() <= slack * bound * want.norm(), (shape, rows)
    if not ran:
        pytest.skip(f"{backend} claims no {op} of {dtype}")


@pytest.mark.parametrize(("backend", "op"), claims(LINEAR))
def test_zero_rows_give_the_bias(backend: str, op: str) -> None:
    """Zero weights times ones, and ones times zero activations."""
    size = 1024 if backend == "avx2" else 128  # the least that each takes
    bias = torch.arange(float(size)).bfloat16()
    for value in (0.0, 1.0):
        weight = torch.full((size, size), value)
        x = torch.full((5, size), 1.0 - value).bfloat16()
        got = on(backend, partial(LINEAR[op][0], x, weight, bias))
        assert torch.equal(got, bias.expand(5, size))


@pytest.mark.parametrize(("backend", "op"), claims(MADE, "kitchen"))
def test_a_transposed_view_and_its_copy_are_the_same(backend: str, op: str) -> None:
    weight = numbers((256, 128), torch.bfloat16, "cpu").T
    assert not weight.is_contiguous()
    seen = flat(on(backend, lambda: MADE[op](weight)))
    copied = flat(on(backend, lambda: MADE[op](weight.contiguous())))
    for got, want in zip(seen, copied, strict=True):
        assert torch.equal(raw(got), raw(want))


@pytest.mark.parametrize("backend", ("reference", "torch_native"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", (float("nan"), float("-nan"), float("inf"), float("-inf")))
def test_what_is_not_finite_shows_in_amax_and_scales(
    backend: str, dtype: torch.dtype, bad: float
) -> None:
    weight = numbers((4, 128), dtype, "cpu")
    weight[2, 5] = bad
    with use_backend(backend):
        assert not ops.amax(weight).isfinite()
        assert ops.row_amax(weight).isfinite().flatten().tolist() == [True, True, False, True]
        for quantize in (ops.quantize_int8, ops.quantize_fp8_row):
            assert quantize(weight)[1].isfinite().flatten().tolist() == [True, True, False, True]
        assert not ops.quantize_fp8(weight)[1].isfinite()
        assert not ops.quantize_fp8_block128(weight)[1].isfinite().all()
        assert not ops.quantize_int4(weight)[1].isfinite().all()


@pytest.mark.parametrize("backend", ("reference", "torch_native"))
@pytest.mark.parametrize("dtype", (E4M3, E5M2), ids=str)
def test_every_fp8_code_widens_exactly(backend: str, dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).reshape(2, 128)
    want = codes.float()
    x = torch.eye(128, dtype=torch.bfloat16)
    with use_backend(backend):
        got = ops.dequantize_fp8(codes)
    assert torch.equal(got.isnan(), want.isnan())
    finite = ~want.isnan()
    assert torch.equal(got[finite].view(torch.int32), want[finite].view(torch.int32))
    if dtype == E4M3:  # x = I picks every code: NaN taints its column, the others are exact
        with use_backend(backend):
            picked = ops.fp8_weight_only_linear(x, codes, torch.tensor(1.0)).float()
        assert picked.isnan().all(dim=0).tolist() == want.isnan().any(dim=1).tolist()


def test_the_largest_e4m3_code_is_never_overrun() -> None:
    weight = torch.tensor([[1000.0, -1000.0, 3.0, 0.0]])
    for backend in ("reference", "torch_native"):
        with use_backend(backend):
            codes, _ = ops.quantize_fp8(weight, torch.tensor(448.0))
        assert codes.float().tolist() == [[448.0, -448.0, 3.0, 0.0]]


@pytest.mark.parametrize(
    ("call", "says"),
    (
        (lambda: ops.int8_linear(torch.ones(2, 3), CODES, torch.ones(4)), "a weight of 64 inputs"),
        (lambda: ops.dequantize_int8(CODES, torch.ones(3)), "does not fit 4 rows"),
        (lambda: ops.quantize_int8(torch.ones(4)), "a weight is (N, K)"),
        (lambda: ops.quantize_int8(torch.ones(4, 0)), "at least one input"),
        (lambda: ops.quantize_int4(torch.ones(4, 100)), "groups of 128 do not divide 100"),
        (lambda: ops.rotate_groups(torch.ones(4, 64), 32), "power of 4"),
        (lambda: ops.dequantize_fp8_block128(CODES, torch.ones(1, 2)), "need (1, 1)"),
        (lambda: ops.dequantize_int4(CODES, torch.ones(4, 1)), "need (1, 4)"),
        (lambda: ops.dequantize_mxfp8(CODES, BYTES), "has to be (128, 4)"),
        (lambda: ops.dequantize_nvfp4(CODES[:, :9], BYTES, ONE), "blocks of 16 do not divide 18"),
        (lambda: ops.quantize_w4a4(torch.ones(4, 100), 64), "groups of 64 do not divide 100"),
        (lambda: ops.dequantize_w4a8(CODES, BYTES, ONE, None, 64), "does not fit 4 rows"),
        (lambda: ops.quantize_w4a8(torch.ones(4, 64), ONE, 16, 64), "has to be (16,)"),
    ),
)  # fmt: skip
def test_tensors_that_do_not_fit_are_named(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        call()
    assert says in str(raised.value)
