"""A scheme's linear with a low-rank branch: as one op, and as two where no op has both."""

from __future__ import annotations

import pytest
import torch

from fusequant.engine.branch import linear_with_branch
from fusequant.engine.rows import all_schemes
from fusequant.kernels.registry import NoBackend, noted, use_backend

ONE_OP = ("int8", "fp8_row", "fp8_block128", "int4_g128")
TWO_OPS = ("fp8", "int8_convrot", "int8_weight_only")
RANK = 8


def case(name: str) -> tuple[torch.Tensor, ...]:
    """x, bias and the sides of a branch."""
    source = torch.Generator().manual_seed(len(name))
    sizes = (3, 5, 256), (128,), (RANK, 256), (128, RANK)
    x, bias, down, up = (torch.randn(size, generator=source) for size in sizes)
    return x, bias, down / 16, up


def layer(name: str) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """A weight of the scheme and its settings."""
    scheme = all_schemes()[name]
    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(7))
    return scheme.quantize(weight, None, "F32"), {**scheme.config(128, 256), **scheme.settings}


@pytest.mark.parametrize("name", ONE_OP)
def test_one_op_gives_the_linear_plus_the_branch(name: str) -> None:
    scheme, (tensors, settings) = all_schemes()[name], layer(name)
    x, bias, down, up = case(name)
    assert scheme.branched is not None
    with noted() as ops:
        got = scheme.branched(x, tensors, settings, bias, down, up)
    assert len(ops) == 1 and ops[0][0].endswith("_low_rank_linear")
    want = scheme.linear(x, tensors, settings, bias).double() + (
        x.double() @ down.double().T @ up.double().T
    )
    assert (got.double() - want).norm() <= 0.004 * want.norm()


@pytest.mark.parametrize("name", (*ONE_OP, *TWO_OPS))
def test_the_branch_is_added_where_no_card_has_both_in_one(name: str) -> None:
    scheme, (tensors, settings) = all_schemes()[name], layer(name)
    x, bias, down, up = case(name)
    got = linear_with_branch(scheme, x, tensors, settings, bias, (down, up))
    want = scheme.linear(x, tensors, settings, bias).double() + (
        x.double() @ down.double().T @ up.double().T
    )
    assert got.shape == (3, 5, 128)
    assert (got.double() - want).norm() <= 0.001 * want.norm()


def test_a_backend_asked_for_takes_the_linear_and_the_branch_is_anybodys() -> None:
    scheme, (tensors, settings) = all_schemes()["int8"], layer("int8")
    x, bias, *sides = case("int8")
    with use_backend("kitchen"), noted() as ops:
        linear_with_branch(scheme, x, tensors, settings, bias, (sides[0], sides[1]))
    assert ops == [("int8_linear", "kitchen"), ("add_low_rank", "torch_native")]
    with use_backend("triton"), pytest.raises(NoBackend, match="triton"):
        linear_with_branch(scheme, x, tensors, settings, bias, (sides[0], sides[1]))
