"""fp8_row by hand: a scale for each row, [N] on disk, with a floor of 1e-5 under the row's amax."""

from __future__ import annotations

import torch

from fusequant.engine.schemes.fp8_row import SCHEME


def test_codes_and_scales() -> None:
    stored = SCHEME.quantize(torch.tensor([[448.0, 1.0], [-896.0, 2.0], [0.0, 0.0], [5e-6, 0.0]]))
    floor = torch.tensor(1e-5) / 448.0
    assert stored["scale"].tolist() == [1.0, 2.0, floor.item(), floor.item()]
    assert stored["weight"].view(torch.uint8).tolist() == [
        [0x7E, 0x38],
        [0xFE, 0x38],
        [0x00, 0x00],
        [0x76, 0x00],  # 5e-6 is half the floor: 224
    ]
    got = SCHEME.dequantize(stored, {})
    assert got[:3].tolist() == [[448.0, 1.0], [-896.0, 2.0], [0.0, 0.0]]
