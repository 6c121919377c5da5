"""mxfp8 by hand: the power of two above amax / 448 for each 32 inputs, e4m3 codes, tiles."""

from __future__ import annotations

import pytest
import torch

from fusequant.engine.schemes.mxfp8 import SCHEME
from fusequant.kernels import ops
from fusequant.kernels.registry import use_backend

BACKENDS = ("reference", "torch_native", None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_codes_exponents_and_where_they_lie(backend: str | None) -> None:
    weight = torch.zeros(40, 70)
    weight[0, :4] = torch.tensor([448.0, -17.0, 19.0, 0.0])  # 2^0; 17 and 19 are ties
    weight[0, 40] = 449.0  # a little more than 448: 2^1
    weight[33, 69] = 0.875  # 448 * 2^-9
    with use_backend(backend):
        stored = SCHEME.quantize(weight)
    assert stored["weight"].shape == (64, 96) and stored["scale"].shape == (128, 4)
    codes = stored["weight"].float()
    assert codes[0, :4].tolist() == [448.0, -16.0, 20.0, 0.0]
    assert codes[0, 40].item() == 224.0 and codes[33, 69].item() == 448.0
    # row 33 of a tile stands at 16 * (33 % 32) + 4 * (33 // 32), then its block
    exponents = stored["scale"].view(-1)
    assert exponents[0].item() == 127 and exponents[1].item() == 128
    assert exponents[16 * 1 + 4 * 1 + 2].item() == 118
    assert exponents.count_nonzero() == 3
    settings = SCHEME.config(40, 70)
    assert settings == {"orig_shape": [40, 70]} and SCHEME.config(64, 96) == {}
    got = SCHEME.dequantize(stored, settings)
    assert got.shape == (40, 70)
    assert got[0, :4].tolist() == [448.0, -16.0, 20.0, 0.0]
    assert got[0, 40].item() == 448.0 and got[33, 69].item() == 0.875


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_too_small_for_an_exponent_are_zero(backend: str | None) -> None:
    weight = torch.zeros(32, 64)
    weight[0, 0] = 1e-38
    with use_backend(backend):
        stored = SCHEME.quantize(weight)
        assert not SCHEME.dequantize(stored, {}).any()
    assert SCHEME.finite(stored)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", (float("nan"), float("inf"), float("-inf")))
def test_a_block_that_is_not_finite_says_so(backend: str | None, bad: float) -> None:
    weight = torch.ones(32, 64)
    weight[3, 40] = bad
    with use_backend(backend):
        codes, exponents = ops.quantize_mxfp8(weight)
    assert exponents.view(-1)[16 * 3 + 1].item() == 255
    assert (exponents == 255).sum() == 1
    assert not SCHEME.finite({"weight": codes, "scale": exponents})
