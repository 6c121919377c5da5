"""The error of a layer: numbers worked by hand, float64 as the judge, runs of any size."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fusequant.engine.errors import Refused
from fusequant.engine.measure.errors import cosine, layer_error, relative_error, worst_row


def test_numbers_worked_by_hand() -> None:
    a = torch.tensor([[3.0, 4.0], [0.0, 1.0]])  # |a|^2 = 26
    b = torch.tensor([[3.0, 3.0], [0.0, 2.0]])  # |b - a|^2 = 2, rows 1/5 and 1/1; <a, b> = 23
    error = layer_error("layer", a, b)
    assert error.relative_error == pytest.approx(math.sqrt(2 / 26), rel=1e-15)
    assert error.worst_row == 1.0
    assert error.cosine == pytest.approx(23 / math.sqrt(26 * 22), rel=1e-15)
    assert (relative_error(a, b), worst_row(a, b), cosine(a, b)) == (
        error.relative_error,
        error.worst_row,
        error.cosine,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(37, 53), (5, 3, 2, 2), (41,), ()])
def test_float64_agrees_whatever_the_dtype_and_shape(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    a = torch.randn(shape).to(dtype)
    b = (a.double() + 0.01 * torch.randn(shape, dtype=torch.float64)).to(dtype)
    x, y = a.double(), b.double()
    rows = (x.reshape(len(x), -1), y.reshape(len(x), -1)) if a.ndim > 1 else (x[None], y[None])
    norms = [t.reshape(t.shape[0], -1).norm(dim=1) for t in (rows[1] - rows[0], rows[0])]
    error = layer_error("layer", a, b)
    assert error.relative_error == pytest.approx(float((y - x).norm() / x.norm()), rel=1e-12)
    assert error.worst_row == pytest.approx(float((norms[0] / norms[1]).max()), rel=1e-12)
    assert error.cosine == pytest.approx(float((x * y).sum() / x.norm() / y.norm()), rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 53, 1000, 1 << 20])
def test_runs_of_any_size_give_the_same_numbers(chunk: int) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(61, 53), torch.randn(61, 53)
    whole, runs = layer_error("x", a, b), layer_error("x", a, b, chunk_elements=chunk)
    for field in ("relative_error", "worst_row", "cosine"):
        assert getattr(runs, field) == pytest.approx(getattr(whole, field), rel=1e-13)


def test_readers_are_asked_for_small_runs_in_order() -> None:
    a = torch.randn(100, 10)
    asked = []

    def read(first: int, last: int) -> torch.Tensor:
        asked.append((first, last))
        return a[first:last] * 1.5

    error = layer_error("x", a, read, chunk_elements=300)
    assert asked == [(0, 30), (30, 60), (60, 90), (90, 100)]
    assert error.relative_error == pytest.approx(0.5, rel=1e-6)
    both = layer_error("x", lambda i, j: a[i:j], read, shape=(100, 10))
    assert both.relative_error == pytest.approx(0.5, rel=1e-6)


def test_zeros_are_equal_to_zeros_and_infinitely_far_from_anything_else() -> None:
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    same = layer_error("x", zero, zero)
    assert (same.relative_error, same.worst_row, same.cosine) == (0.0, 0.0, 1.0)
    far = layer_error("x", zero, one)
    assert (far.relative_error, far.worst_row, far.cosine) == (math.inf, math.inf, 0.0)
    assert layer_error("x", torch.zeros(0, 3), torch.zeros(0, 3)).relative_error == 0.0


def test_a_nan_is_never_lost_and_stays_valid_json() -> None:
    a = torch.ones(100, 4)
    b = a.clone()
    b[3, 1] = math.nan
    error = layer_error("x", a, b, chunk_elements=40)
    assert math.isnan(error.relative_error)
    assert math.isnan(error.worst_row)
    assert math.isnan(error.cosine)
    assert json.loads(json.dumps(error.to_json(), allow_nan=False))["worst_row"] is None


def test_quantized_numbers_are_read_too() -> None:
    a = torch.tensor([[448.0, -2.0, 0.5]])
    assert layer_error("x", a, a.to(torch.float8_e4m3fn)).relative_error == 0.0
    assert layer_error("x", a, a.to(torch.int8)).relative_error > 0.0


def test_other_shapes_are_refused_by_name() -> None:
    with pytest.raises(Refused, match=r"shapes-differ \(layer\).*\[2, 4\].*\[2, 3\]"):
        layer_error("layer", torch.ones(2, 3), torch.ones(2, 4))
