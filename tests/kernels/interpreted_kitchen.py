"""comfy-kitchen's Triton products, as the backend calls them, in Triton's interpreter.

test_triton.py runs this file beside interpreted.py. Two things of the kernels are not for the
interpreter: they tune themselves by the clock of a card, so one tile is left to choose, and they
round by a function that Triton leaves empty where no card is, so it is filled in.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from fusequant.kernels import ops
from fusequant.kernels.backends import _kitchen_triton as calls
from fusequant.kernels.registry import choose, use_backend

kitchen = pytest.importorskip("comfy_kitchen.backends.triton.quantization")

Tensor = torch.Tensor
ROWS, OUTPUTS, INPUTS, ROTATION = 19, 40, 128, 64


@pytest.fixture(autouse=True)
def interpretable(monkeypatch: pytest.MonkeyPatch) -> None:
    def rint(values: Any) -> Any:
        return (values + 12582912.0) - 12582912.0

    monkeypatch.setattr(kitchen.libdevice, "rint", rint)
    for name in ("_int8_matmul_dequant_kernel", "_int8_matmul_dequant_per_row_kernel"):
        tuned = getattr(kitchen, name)
        monkeypatch.setattr(tuned, "configs", tuned.configs[-1:])


def plain(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stored(op: str, weight: Tensor) -> dict[str, Any]:
    """The arguments of a linear beside x and the bias, as the reference makes them."""
    with use_backend("reference"):
        if op == "w4a8_linear":
            codebook = ops.w4a8_codebook(weight, 16, ROTATION)
            codes, scale, channel = ops.quantize_w4a8(weight, codebook, 16, ROTATION)
            more = {"channel": channel[:, None], "codebook": codebook, "rotation": ROTATION}
            return {"weight": codes, "scale": scale, **more}
        if op == "int8_linear":
            return dict(zip(("weight", "scale"), ops.quantize_int8(weight), strict=True))
        codes, scale = ops.quantize_int8_convrot(weight, ROTATION)
        return {"weight": codes, "scale": scale, "group_size": ROTATION}


def product(op: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """comfy-kitchen's Triton product and the reference's."""
    call = stored(op, weight)
    with use_backend("reference"):
        want = choose(op, {"x": x}).run(x=x, bias=bias, **call)
    return getattr(calls, op)(x=x, bias=bias, **call), want


@pytest.mark.parametrize("with_bias", (True, False))
@pytest.mark.parametrize("dtype", (torch.float16, torch.float32), ids=str)
@pytest.mark.parametrize("op", ("int8_linear", "int8_convrot_linear", "w4a8_linear"))
def test_a_product_is_the_reference_s(op: str, dtype: torch.dtype, with_bias: bool) -> None:
    bias = torch.stack((plain(OUTPUTS), plain(OUTPUTS)), 1)[:, 0].to(dtype) if with_bias else None
    weight = plain(OUTPUTS, INPUTS, seed=4) * torch.logspace(-2, 2, OUTPUTS, 2.0)[:, None]
    got, want = product(op, plain(ROWS, INPUTS).to(dtype), weight, bias)
    assert (got.dtype, got.shape) == (dtype, (ROWS, OUTPUTS))
    # in halves it divides x by its scale in halves, which costs a part of a code
    assert (got.double() - want.double()).norm() <= 0.015 * want.double().norm()


def test_what_32_bits_cannot_count_goes_in_runs_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_ELEMENTS", 8 * INPUTS + 1)
    got, want = product("int8_linear", plain(ROWS, INPUTS), plain(OUTPUTS, INPUTS, seed=4), None)
    assert (got - want).norm() <= 0.005 * want.norm()


def test_one_scale_for_all_rows_is_taken() -> None:
    codes = torch.randint(-127, 127, (OUTPUTS, INPUTS), dtype=torch.int8)
    x, one = plain(ROWS, INPUTS), torch.tensor(0.01)
    with use_backend("reference"):
        want = ops.int8_linear(x, codes, one)
    assert (calls.int8_linear(x, codes, None, one) - want).norm() <= 0.005 * want.norm()


def test_the_claims_prove_themselves_and_nothing_of_the_host_is_switched() -> None:
    registry = importlib.import_module("comfy_kitchen.registry").registry
    before = registry.list_backends()
    for claim in calls.CLAIMS:
        call = {"x": plain(3, 128).half()}
        assert claim.check(call) is None, claim.op
    assert registry.list_backends() == before
