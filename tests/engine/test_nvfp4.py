"""nvfp4 by hand: one scale for all, e4m3 scales of 16 in tiles, e2m1 codes, halves to the even."""

from __future__ import annotations

import pytest
import torch

from fusequant.engine.errors import Refused
from fusequant.engine.schemes.nvfp4 import SCHEME
from fusequant.kernels.registry import use_backend

# amax 2688 makes the whole scale 1; this block's amax of 6 makes its scale 1
LADDER = [
    6.0,
    -6.0,
    0.25,
    0.75,
    1.25,
    1.75,
    2.5,
    3.5,
    5.0,
    -0.2,
    0.26,
    5.01,
    -1.24,
    4.99,
    0.0,
    -3.0,
]
CODES = [7, 15, 0, 2, 2, 4, 4, 6, 6, 8, 1, 7, 10, 6, 0, 13]
NUMBERS = [6.0, -6.0, 0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 0.0, 0.5, 6.0, -1.0, 4.0, 0.0, -3.0]


@pytest.mark.parametrize("backend", ("reference", "torch_native", None))
def test_codes_scales_and_where_they_lie(backend: str | None) -> None:
    weight = torch.zeros(20, 36)
    weight[0, :16] = torch.tensor(LADDER)
    weight[18, 35] = -2688.0
    with use_backend(backend):
        stored = SCHEME.quantize(weight)
    assert stored["weight"].shape == (32, 24) and stored["scale"].shape == (128, 4)
    pairs = list(zip(CODES[::2], CODES[1::2], strict=True))
    assert stored["weight"][0, :8].tolist() == [even << 4 | odd for even, odd in pairs]
    assert stored["weight"][18, 17].item() == 0x0F  # -6 in the low half, of the odd input
    assert stored["scale_2"].item() == 1.0
    # row r, block b of a tile stand at 16 * (r % 32) + 4 * (r // 32) + b
    found = stored["scale"].view(-1).view(torch.float8_e4m3fn).float()
    assert found[0].item() == 1.0 and found[16 * 18 + 2].item() == 448.0
    assert found.count_nonzero() == 2
    settings = SCHEME.config(20, 36)
    assert settings == {"orig_shape": [20, 36]}
    got = SCHEME.dequantize(stored, settings)
    assert got.shape == (20, 36)
    assert got[0, :16].tolist() == NUMBERS and got[18, 35].item() == -2688.0
    assert got.count_nonzero() == sum(number != 0 for number in NUMBERS) + 1


def test_the_amax_of_the_whole_weight_counts() -> None:
    weight = torch.full((1, 16), 6.0)
    stored = SCHEME.quantize(weight, torch.tensor(5376.0))
    assert stored["scale_2"].item() == 2.0
    assert stored["scale"].view(-1).view(torch.float8_e4m3fn)[0].float() == 0.5
    assert SCHEME.dequantize(stored, {})[0].tolist() == [6.0] * 16


def test_a_smoothing_of_the_inputs_belongs_to_the_weight() -> None:
    stored = SCHEME.quantize(torch.full((16, 16), 6.0), torch.tensor(2688.0))
    stored["pre_quant_scale"] = torch.linspace(1, 2, 16).bfloat16()
    got = SCHEME.dequantize(stored, {})
    assert torch.equal(got, 6.0 * stored["pre_quant_scale"].float().expand(16, 16))
    x = torch.randn(3, 16)
    y = SCHEME.linear(x, stored, {"full_precision_matrix_mult": True}, None)
    torch.testing.assert_close(y, x @ got.T)


def test_inputs_and_outputs_are_cut_to_the_real_ones() -> None:
    weight = torch.randn(20, 36)
    stored, settings = SCHEME.quantize(weight), SCHEME.config(20, 36)
    x, bias = torch.randn(2, 5, 36), torch.randn(20)
    want = x @ SCHEME.dequantize(stored, settings).T + bias
    for backend in ("reference", "torch_native"):
        with use_backend(backend):
            got = SCHEME.linear(x, stored, settings, bias)
        assert got.shape == (2, 5, 20)
        assert (got - want).norm() <= 0.15 * want.norm()


@pytest.mark.parametrize("shape", ([20], "20 x 36", [20, 99], None))
def test_a_shape_that_the_codes_cannot_have_is_refused(shape: object) -> None:
    stored = SCHEME.quantize(torch.randn(20, 36))
    with pytest.raises(Refused, match="orig_shape"):
        SCHEME.dequantize(stored, {"orig_shape": shape})
