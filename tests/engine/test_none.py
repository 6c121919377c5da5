"""none: the numbers themselves, in the dtype that is asked for."""

from __future__ import annotations

import torch

from fusequant.engine.schemes.none import SCHEME


def test_numbers_pass() -> None:
    weight = torch.tensor([[1.0, 1.00390625], [-3.0, 0.0]])
    kept = SCHEME.quantize(weight, None, "F32")["weight"]
    half = SCHEME.quantize(weight, None, "BF16")["weight"]
    assert kept.tolist() == weight.tolist()
    assert half.tolist() == [[1.0, 1.0], [-3.0, 0.0]]  # a tie between 1 and 1.0078125
    assert SCHEME.dequantize({"weight": half}, {}).dtype == torch.float32
    y = SCHEME.linear(torch.ones(1, 2).bfloat16(), {"weight": half}, {}, torch.ones(2))
    assert y.tolist() == [[3.0, -2.0]]
