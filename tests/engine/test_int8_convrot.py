"""int8_convrot by hand: a single spike becomes sixteen numbers of one size, and comes back."""

from __future__ import annotations

import torch

from fusequant.engine.schemes.int8_convrot import SCHEME

# the first row of H16 = H4 kron H4 is (1, 1, 1, -1) kron (1, 1, 1, -1), divided by sqrt(16) = 4
SIGNS = [1, 1, 1, -1, 1, 1, 1, -1, 1, 1, 1, -1, -1, -1, -1, 1]


def test_a_spike_is_spread_and_comes_back() -> None:
    spike = torch.zeros(2, 16)
    spike[0, 0] = 16.0
    stored = SCHEME.quantize(spike)
    assert stored["weight"][0].tolist() == [127 * sign for sign in SIGNS]
    torch.testing.assert_close(stored["scale"][0].item(), 4.0 / 127.0)
    settings = SCHEME.config(2, 16)
    assert settings == {"convrot": True, "convrot_groupsize": 16}
    torch.testing.assert_close(SCHEME.dequantize(stored, settings), spike, atol=1e-5, rtol=1e-6)


def test_the_layer_rotates_its_input() -> None:
    weight = torch.zeros(1, 16)
    weight[0, 3] = 16.0
    x = torch.zeros(1, 16)
    x[0, 3] = 2.0
    y = SCHEME.linear(x, SCHEME.quantize(weight), SCHEME.config(1, 16), torch.tensor([0.5]))
    torch.testing.assert_close(y, torch.tensor([[32.5]]), rtol=1e-4, atol=1e-4)
