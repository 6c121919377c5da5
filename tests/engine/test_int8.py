"""int8 and int8_weight_only by hand: row amax / 127, halves to even, exact sums."""

from __future__ import annotations

import torch

from fusequant.engine.schemes.int8 import SCHEME
from fusequant.engine.schemes.int8_weight_only import SCHEME as WEIGHT_ONLY

WEIGHT = torch.tensor([[127.0, -63.5, 0.5, 1.5], [-254.0, 2.0, 4.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
CODES = [[127, -64, 0, 2], [-127, 1, 2, 0], [0, 0, 0, 0]]
FLOOR = torch.tensor(1e-30).item()


def test_codes_and_scales() -> None:
    for scheme in (SCHEME, WEIGHT_ONLY):
        stored = scheme.quantize(WEIGHT)
        assert stored["scale"].tolist() == [[1.0], [2.0], [FLOOR]]
        assert stored["weight"].tolist() == CODES
        assert scheme.dequantize(stored, {}).tolist() == [
            [127.0, -64.0, 0.0, 2.0],
            [-254.0, 2.0, 4.0, 0.0],
            [0.0, 0.0, 0.0, 0.0],
        ]


def test_activations_are_quantized_per_token_or_not_at_all() -> None:
    x = torch.tensor([[127.0, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    stored, bias = SCHEME.quantize(WEIGHT), torch.tensor([1.0, 0.0, -1.0])
    first = 127.0 * 127.0 + 1.0
    dynamic = SCHEME.linear(x, stored, {}, bias)
    assert dynamic.tolist() == [[first, -127.0 * 254.0, -1.0], [1.0, 0.0, -1.0]]  # 0.4 becomes 0
    kept = WEIGHT_ONLY.linear(x, stored, {}, bias)
    torch.testing.assert_close(kept[0, 0].item(), first - 0.4 * 64)
    assert WEIGHT_ONLY.config(3, 4) == {"full_precision_matrix_mult": True}
