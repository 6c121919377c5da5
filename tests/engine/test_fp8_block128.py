"""fp8_block128 by hand: a scale for each 128 x 128 tile, the last ones filled up with zeros."""

from __future__ import annotations

import torch

from fusequant.engine.schemes.fp8_block128 import SCHEME


def test_codes_and_scales() -> None:
    weight = torch.zeros(130, 200)
    weight[0, 0], weight[127, 127] = 448.0, 17.0  # first tile: scale 1, 17 is a tie and becomes 16
    weight[3, 199] = -896.0  # its right neighbour: scale 2
    weight[129, 5] = 44.8  # below: scale 0.1
    stored = SCHEME.quantize(weight)
    floor = torch.tensor(1e-4) / 448.0
    tenth = torch.tensor(44.8) / 448.0
    assert stored["scale"].tolist() == [[1.0, 2.0], [tenth.item(), floor.item()]]
    got = SCHEME.dequantize(stored, {"group_size": 128})
    assert got[0, 0] == 448.0 and got[127, 127] == 16.0 and got[3, 199] == -896.0
    assert torch.isclose(got[129, 5], weight[129, 5])
    assert got.count_nonzero() == 4
    assert SCHEME.config(130, 200) == {"group_size": 128}
