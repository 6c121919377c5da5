"""The reference transformer: finite, repeatable, open to replaced layers, sensitive to outliers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling

from fusequant.engine.measure import quality, references
from fusequant.engine.measure.arithmetic import Linear
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.synthetic import make_weights
from fusequant.engine.measure.transformer import ReferenceTransformer
from fusequant.engine.rows import all_schemes

CONFIG = FluxConfig(256, 1, 1)
WEIGHTS = make_weights(CONFIG, seed=5)
INPUTS = references.make_inputs(CONFIG, grid=(4, 6), text_tokens=8)


def rounded(name: str) -> Linear:
    """The layer with its weight rounded to 8 bits with one step for a whole row."""
    weight, bias = WEIGHTS[f"{name}.weight"].float(), WEIGHTS[f"{name}.bias"].float()
    step = weight.abs().amax(1, keepdim=True) / 127
    return lambda x: F.linear(x, (weight / step).round() * step, bias)


def test_output_is_finite_repeatable_and_of_the_size_of_the_image() -> None:
    first, again = (quality.output(CONFIG, WEIGHTS, INPUTS) for _ in range(2))
    assert first.shape == (1, 24, 64)
    assert first.isfinite().all()
    assert 0.1 < float(first.std()) < 10
    assert torch.equal(first, again)


def test_parameters_may_come_from_a_function_and_each_is_used() -> None:
    asked = set()

    def get(key: str) -> torch.Tensor:
        asked.add(key)
        return WEIGHTS[key]

    with torch.inference_mode():
        out = ReferenceTransformer(CONFIG, get)(
            INPUTS.img, INPUTS.txt, INPUTS.vector, INPUTS.timestep, INPUTS.guidance, INPUTS.grid
        )
    assert torch.equal(out, quality.output(CONFIG, WEIGHTS, INPUTS))
    assert asked == set(CONFIG.shapes())


@pytest.mark.parametrize("name", list(CONFIG.linears()))
def test_every_linear_can_be_replaced_and_counts(name: str) -> None:
    reference = quality.output(CONFIG, WEIGHTS, INPUTS)
    weight, bias = WEIGHTS[f"{name}.weight"].float(), WEIGHTS[f"{name}.bias"].float()
    same = quality.output(CONFIG, WEIGHTS, INPUTS, {name: lambda x: F.linear(x, weight, bias)})
    torch.testing.assert_close(same, reference, rtol=1e-4, atol=1e-5)
    off = quality.output(CONFIG, WEIGHTS, INPUTS, {name: lambda x: F.linear(x, weight * 0, bias)})
    assert quality.output_error(reference, off).relative_error > 1e-4


def test_the_place_of_a_token_counts() -> None:
    wide = references.Inputs(**{**vars(INPUTS), "grid": (6, 4)})
    assert not torch.equal(
        quality.output(CONFIG, WEIGHTS, wide), quality.output(CONFIG, WEIGHTS, INPUTS)
    )


def test_outliers_make_one_step_a_row_worse_than_a_rotation() -> None:
    found = {}
    for name in ("int8", "int8_convrot"):
        linears, errors = quality.quantize_linears(all_schemes()[name], WEIGHTS, CONFIG.quantized())
        assert len(linears) == len(errors) == 10
        out = quality.output(CONFIG, WEIGHTS, INPUTS, linears)
        reference = quality.output(CONFIG, WEIGHTS, INPUTS)
        found[name] = quality.output_error(reference, out).relative_error
    assert 0 < 1.5 * found["int8_convrot"] < found["int8"] < 0.2


def test_an_outlier_in_one_weight_moves_the_output() -> None:
    name = "double_blocks.0.img_mlp.2"
    reference = quality.output(CONFIG, WEIGHTS, INPUTS)
    small = quality.output(CONFIG, WEIGHTS, INPUTS, {name: rounded(name)})
    spoilt = dict(WEIGHTS)
    spoilt[f"{name}.weight"] = WEIGHTS[f"{name}.weight"].clone()
    spoilt[f"{name}.weight"][:, 7] *= 300
    step = spoilt[f"{name}.weight"].float().abs().amax(1, keepdim=True) / 127
    coarse = (WEIGHTS[f"{name}.weight"].float() / step).round() * step
    large = quality.output(CONFIG, {**WEIGHTS, f"{name}.weight": coarse}, INPUTS)
    error = [quality.output_error(reference, x).relative_error for x in (small, large)]
    assert 0 < 10 * error[0] < error[1]
