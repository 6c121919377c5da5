"""fp8 and fp8_e5m2 by hand: one scale, round to nearest even, the smallest subnormal."""

from __future__ import annotations

import torch

from fusequant.engine.schemes.fp8 import SCHEME
from fusequant.engine.schemes.fp8_e5m2 import SCHEME as E5M2

# amax 448 makes the scale 1. Between 16 and 32 e4m3 steps by 2, so 17 and 19 are ties, which go to
# the even mantissa; the least number above zero is 2**-9 = 0.001953125, and 0.001 is nearer to it
WEIGHT = torch.tensor([[448.0, 17.0, 19.0, -0.001], [1.0, -2.0, 0.5, 0.0]])
VALUES = [[448.0, 16.0, 20.0, -0.001953125], [1.0, -2.0, 0.5, 0.0]]
CODES = [[0x7E, 0x58, 0x5A, 0x81], [0x38, 0xC0, 0x30, 0x00]]


def test_e4m3_codes() -> None:
    stored = SCHEME.quantize(WEIGHT)
    assert stored["scale"].shape == () and stored["scale"].item() == 1.0
    assert stored["weight"].view(torch.uint8).tolist() == CODES
    assert SCHEME.dequantize(stored, {}).tolist() == VALUES
    assert SCHEME.dequantize({"weight": stored["weight"]}, {}).tolist() == VALUES  # bare: scale 1


def test_the_scale_carries_the_size() -> None:
    stored = SCHEME.quantize(WEIGHT * 4)
    assert stored["scale"].item() == 4.0
    assert stored["weight"].view(torch.uint8).tolist() == CODES


def test_the_amax_of_the_whole_weight_counts() -> None:
    stored = SCHEME.quantize(WEIGHT[1:], torch.tensor(896.0))
    assert stored["scale"].item() == 2.0
    assert SCHEME.dequantize(stored, {}).tolist() == VALUES[1:]


def test_e5m2_codes() -> None:
    # amax 57344 makes the scale 1; from 1 on e5m2 steps by a quarter, and 1.125 is a tie
    stored = E5M2.quantize(torch.tensor([[57344.0, 1.125, -1.5, 0.0]]))
    assert stored["scale"].item() == 1.0
    assert stored["weight"].view(torch.uint8).tolist() == [[0x7B, 0x3C, 0xBE, 0x00]]
    assert E5M2.dequantize(stored, {}).tolist() == [[57344.0, 1.0, -1.5, 0.0]]


def test_a_given_input_scale_bounds_the_activations() -> None:
    stored = SCHEME.quantize(torch.tensor([[448.0, 0.0]]))
    x = torch.tensor([[1000.0, 1.0], [1.0, 1.0]])
    from fusequant.kernels.registry import use_backend

    with use_backend("reference"):
        fixed = SCHEME.linear(x, {**stored, "input_scale": torch.tensor(1.0)}, {}, None)
        found = SCHEME.linear(x, stored, {}, None)
    assert fixed.tolist() == [[448.0 * 448.0], [448.0]]  # 1000 is cut to 448
    assert found[0].item() == 1000.0 * 448.0
