"""w4a4_convrot by hand: a spike becomes 64 numbers of one size, seven steps of a seventh of it."""

from __future__ import annotations

import pytest
import torch

from fusequant.engine.schemes.w4a4_convrot import SCHEME
from fusequant.kernels.registry import use_backend

BACKENDS = ("reference", "torch_native", None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_codes_scales_and_halves_of_bytes(backend: str | None) -> None:
    weight = torch.zeros(2, 64)
    weight[0, 0] = 16.0  # the first row of H64 is (1, 1, 1, -1) three times over, divided by 8
    with use_backend(backend):
        stored = SCHEME.quantize(weight)
    assert stored["weight"].shape == (2, 32) and stored["scale"].shape == (2,)
    torch.testing.assert_close(stored["scale"][0].item(), 2.0 / 7.0)
    # 7 is 0111, -7 is 1001; the even input in the low half
    assert stored["weight"][0, :2].view(torch.uint8).tolist() == [0x77, 0x97]
    assert not stored["weight"][1].any() and stored["scale"].isfinite().all()
    settings = SCHEME.config(2, 64)
    assert settings == {"convrot_groupsize": 64} and SCHEME.config(2, 512) == {
        "convrot_groupsize": 256
    }
    got = SCHEME.dequantize(stored, settings)
    torch.testing.assert_close(got, weight, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("backend", ("reference", "torch_native"))
def test_activations_take_four_bits_or_eight(backend: str) -> None:
    weight = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    x = torch.randn(9, 256, generator=torch.Generator().manual_seed(1))
    stored, settings = SCHEME.quantize(weight), SCHEME.config(32, 256)
    want = x @ SCHEME.dequantize(stored, settings).T
    errors = []
    for more in ({}, {"linear_dtype": "int8"}):
        with use_backend(backend):
            got = SCHEME.linear(x, stored, settings | more, None)
        errors.append(float((got - want).norm() / want.norm()))
    assert 0.05 < errors[0] < 0.2 and errors[1] < 0.02


def test_a_channel_is_read_in_any_shape() -> None:
    stored, settings = SCHEME.quantize(torch.randn(8, 64)), SCHEME.config(8, 64)
    want = SCHEME.dequantize(stored, settings)
    for shape in ((8, 1), (1, 8)):
        other = {**stored, "scale": stored["scale"].reshape(shape)}
        assert torch.equal(SCHEME.dequantize(other, settings), want)
