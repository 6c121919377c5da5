"""What is left of a LoRA: by hand, under the noise of a good scheme, after a bare fp8 cast."""

from __future__ import annotations

import pytest
import torch

from fusequant.engine.measure.delta import LayerDelta, Sums, delta_left, lora_left
from fusequant.engine.rows import all_schemes

N, K = 256, 512


def weights() -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and a delta of rank 8 that is 1 % of it."""
    source = torch.Generator().manual_seed(3)
    weight = torch.randn(N, K, generator=source)
    delta = torch.randn(N, 8, generator=source) @ torch.randn(8, K, generator=source)
    return weight, delta * (0.01 * weight.norm() / delta.norm())


def test_by_hand() -> None:
    without = torch.zeros(2, 2)
    fused = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    stored = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    left = delta_left(without, fused, stored, (2, 2))
    assert (left.wanted, left.real, left.both) == (25.0, 9.0, 9.0)
    assert left.kept == pytest.approx(9 / 25)
    assert left.norm_ratio == pytest.approx(3 / 5)
    assert left.cosine == pytest.approx(9 / 15)


def test_runs_of_rows_add_up() -> None:
    weight, delta = weights()
    whole = delta_left(weight, weight + delta, weight + 0.5 * delta, (N, K))
    runs = delta_left(
        lambda a, b: weight[a:b], lambda a, b: (weight + delta)[a:b],
        lambda a, b: (weight + 0.5 * delta)[a:b], (N, K), chunk_elements=3 * K + 1,
    )  # fmt: skip
    assert runs.kept == pytest.approx(whole.kept) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("scheme", ["fp8", "fp8_row", "int8", "int8_convrot"])
def test_fused_before_quantizing_a_lora_is_kept(scheme: str) -> None:
    weight, delta = weights()
    found = all_schemes()[scheme]
    settings = found.config(N, K)
    stored = found.dequantize(found.quantize(weight + delta), settings)
    left = delta_left(weight, weight + delta, stored, (N, K))
    assert left.kept == pytest.approx(1.0, abs=0.05)


def test_added_to_a_bare_fp8_cast_a_lora_is_lost() -> None:
    weight, delta = weights()
    narrow = weight.to(torch.float8_e4m3fn)
    stored = (narrow.float() + delta).to(torch.float8_e4m3fn).float()
    assert delta_left(weight, weight + delta, stored, (N, K)).kept < 0.5
    moved = (stored != narrow.float()).float().mean()
    assert moved < 0.2


def test_nothing_wanted_is_wholly_there() -> None:
    same = torch.ones(3, 3)
    left = delta_left(same, same, same, (3, 3))
    assert (left.kept, left.norm_ratio, left.cosine) == (1.0, 1.0, 1.0)


def test_the_most_damaged_layer_comes_first() -> None:
    layers = [
        LayerDelta("whole", Sums(1, 1, 1)),
        LayerDelta("half", Sums(1, 1, 0.5)),
        LayerDelta("broken", Sums(1, float("nan"), float("nan"))),
    ]
    found = lora_left("style", layers)
    assert [layer.name for layer in found.layers] == ["broken", "half", "whole"]
    assert found.to_json()["kept"] is None
    assert lora_left("style", layers[:2]).sums.kept == pytest.approx(0.75)
