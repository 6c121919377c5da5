"""int4_g128 by hand: s = 2 amax / 15, code = round(w / s) + 8, two codes to a byte."""

from __future__ import annotations

import torch

from fusequant.engine.schemes.int4_g128 import SCHEME


def test_codes_scales_and_nibbles() -> None:
    weight = torch.zeros(2, 256)
    # amax 7.5 makes the scale 1; 7.5 and -7.5 are ties and go to 8, which is cut to 7, and to -8
    weight[0, :4] = torch.tensor([7.5, -7.5, 1.0, 0.0])
    weight[1, 128:130] = torch.tensor([3.75, -1.0])  # second group: scale 0.5
    stored = SCHEME.quantize(weight, None, "BF16")
    assert stored["weight"].shape == (2, 128) and stored["scale"].shape == (2, 2)
    nibbles = stored["weight"].view(torch.uint8)
    assert nibbles[0, :3].tolist() == [15 | 0 << 4, 9 | 8 << 4, 8 | 8 << 4]
    assert nibbles[1, 64].item() == 15 | 6 << 4
    assert stored["scale"].dtype == torch.bfloat16
    assert stored["scale"][0, 0] == 1.0 and stored["scale"][1, 1] == 0.5
    assert not stored["zeros"].any() and stored["scale"].isfinite().all()
    got = SCHEME.dequantize(stored, SCHEME.config(2, 256))
    assert got[0, :4].tolist() == [7.0, -8.0, 1.0, 0.0]
    assert got[1, 128:130].tolist() == [3.5, -1.0]
    assert got.count_nonzero() == 5


def test_the_rounded_scale_is_the_one_that_codes_are_made_with() -> None:
    weight = torch.full((1, 128), 5.0)
    weight[0, 0] = 7.52  # 2 * 7.52 / 15 = 1.00267 in float32
    for dtype, scale in (("BF16", 1.0), ("F16", 1.0029296875), ("F32", 1.0)):
        stored = SCHEME.quantize(weight, None, dtype)
        assert stored["scale"].item() == scale
        assert SCHEME.pieces(1, 128, dtype)["scale"].dtype == ("F16" if dtype == "F16" else "BF16")


def test_zeros_and_other_group_sizes_are_read() -> None:
    tensors = {
        "weight": torch.tensor([[0x09, 0x7F]], dtype=torch.uint8).view(torch.int8),
        "scale": torch.tensor([[2.0], [0.5]]),
        "zeros": torch.tensor([[1.0], [0.0]]),
    }
    # codes 9 0 | 15 7, less 8: 1 -8 | 7 -1
    got = SCHEME.dequantize(tensors, {"group_size": 2})
    assert got.tolist() == [[3.0, -15.0, 3.5, -0.5]]


def test_float16_groups_of_next_to_nothing_stay_finite() -> None:
    weight = torch.full((1, 128), 6e-8, dtype=torch.float16)
    stored = SCHEME.quantize(weight, None, "F16")
    assert stored["scale"].item() == 2.0**-24
    assert SCHEME.dequantize(stored, {}).isfinite().all()
