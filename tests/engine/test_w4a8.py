"""w4a8 by hand: levels of a group, its e4m3 scale, whole numbers of a row; how levels are found."""

from __future__ import annotations

import pytest
import torch

from fusequant.engine.schemes import w4a8
from fusequant.engine.schemes.w4a8 import SCHEME
from fusequant.kernels import ops
from fusequant.kernels.registry import use_backend

BACKENDS = ("reference", "torch_native", None)
LEVELS = torch.tensor([-1.0, *(step / 10 for step in range(-7, 7)), 1.0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_codes_scales_and_halves_of_bytes(backend: str | None) -> None:
    weight = torch.zeros(2, 16)
    weight[0, 0] = 16.0  # rotated: 4 * (1, 1, 1, -1, 1, 1, 1, -1, 1, 1, 1, -1, -1, -1, -1, 1)
    with use_backend(backend):
        stored = SCHEME.quantize(weight, LEVELS)
    assert stored["weight"].shape == (2, 8) and stored["scale"].shape == (2, 1)
    # levels 1 and -1 are codes 15 and 0; the even input in the low half
    assert stored["weight"][0, :2].view(torch.uint8).tolist() == [0xFF, 0x0F]
    torch.testing.assert_close(stored["channel"][0].item(), 4.0 / 127.0)
    # 4 / (4 / 127) = 127, and e4m3 has 120 and 128
    assert stored["scale"].view(torch.float8_e4m3fn)[0, 0].float() == 128.0
    assert torch.equal(stored["codebook"], LEVELS)
    settings = SCHEME.config(2, 16)
    assert settings == {"group_size": 16, "convrot_groupsize": 16}
    # round(1 * 128) is cut to 127: 127 * 4 / 127, rotated back
    torch.testing.assert_close(SCHEME.dequantize(stored, settings), weight, atol=1e-5, rtol=1e-6)


def test_without_levels_codes_are_whole_numbers_around_eight() -> None:
    tensors = {
        "weight": torch.tensor([[0x0F, 0x91, *[0x88] * 6]], dtype=torch.uint8).view(torch.int8),
        "scale": torch.tensor([[2.0]]).to(torch.float8_e4m3fn),
        "channel": torch.tensor([0.5]),
    }
    # 15 0 1 9 less 8, times 2, times 0.5, rotated back in fours
    plain = torch.tensor([[7.0, -8.0, -7.0, 1.0, *[0.0] * 12]])
    four = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    want = (plain.reshape(4, 4) @ four).reshape(1, 16)
    assert torch.equal(SCHEME.dequantize(tensors, {"convrot_groupsize": 4}), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_normal_numbers_have_the_fixed_levels_heavy_tails_have_their_own(
    backend: str | None,
) -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(128, 256, generator=generator)
    with use_backend(backend):
        fixed = ops.w4a8_codebook(normal, 16, 256)
    assert fixed[[0, 7, 8, 15]].tolist() == pytest.approx([-0.980602, -0.05072, 0.052541, 0.980671])
    # rotations of blocks whose numbers lie far apart stay heavy-tailed inside a group
    heavy = normal.clone()
    heavy[:, ::16] *= 30
    with use_backend(backend):
        own = ops.w4a8_codebook(ops.rotate_groups(heavy, 256), 16, 256)
    assert (own.diff() >= 0).all() and not torch.equal(own, fixed)


def test_levels_come_from_evenly_spaced_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(w4a8, "SAMPLE", 40 * 64)
    seen = []
    monkeypatch.setattr(ops, "w4a8_codebook", lambda sample, *_: seen.append(sample) or LEVELS)
    weight = torch.arange(100.0)[:, None].expand(100, 64)
    spans = [(0, 64), (64, 100)]
    levels = w4a8.codebook(lambda a, b: weight[a:b], 100, 64, spans)
    assert levels is LEVELS
    wanted = torch.linspace(0, 99, 40).long()
    assert torch.equal(seen[0], weight[wanted])
    assert SCHEME.survey is not None and SCHEME.survey.held(100, 64) == 40 * 64
