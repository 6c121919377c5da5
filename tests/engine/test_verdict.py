"""Thresholds and the sentences of what fails them; the heat map's places."""

from __future__ import annotations

import math

import pytest

from fusequant.engine.errors import Refused
from fusequant.engine.measure.delta import LayerDelta, Sums, lora_left
from fusequant.engine.measure.errors import LayerError
from fusequant.engine.measure.heatmap import heatmap, panels, place_of
from fusequant.engine.measure.images import ImageLikeness
from fusequant.engine.measure.picture import pixels
from fusequant.engine.measure.verdict import LEVELS, Measured, judge, thresholds

GOOD = LayerError("double_blocks.0.img_mlp.0", 0.01, 0.02, 0.9999)
BAD = LayerError("double_blocks.1.img_mlp.2", 0.4, 0.9, 0.9)


def image(**facts: float) -> ImageLikeness:
    usual: dict[str, float] = {
        "psnr": 40.0, "ssim": 0.99, "luminosity_reference": 120.0, "luminosity": 121.0
    }  # fmt: skip
    return ImageLikeness(**{**usual, **facts}, not_finite=False)


def test_nothing_measured_passes() -> None:
    assert judge(Measured(), thresholds(None)).passed


def test_a_bad_layer_is_named() -> None:
    verdict = judge(Measured(layers=[GOOD, BAD]), thresholds("normal"))
    assert not verdict.passed
    assert (
        "1 layers differ by more than 0.06: double_blocks.1.img_mlp.2 (0.4000)"
        in (verdict.failures[0])
    )


def test_a_level_with_own_numbers() -> None:
    assert judge(Measured(layers=[BAD]), thresholds("normal", layer_error=0.5)).passed
    assert not judge(Measured(layers=[GOOD]), thresholds("strict", layer_error=0.001)).passed
    with pytest.raises(Refused, match="unknown-level"):
        thresholds("picky")


@pytest.mark.parametrize("level", LEVELS)
def test_broken_numbers_never_pass(level: str) -> None:
    nothing = thresholds(
        level, layer_error=math.inf, latent_error=math.inf, psnr=-math.inf, ssim=-math.inf,
        luminosity=math.inf,
    )  # fmt: skip
    broken = LayerError("a", math.nan, math.nan, math.nan)
    assert not judge(Measured(layers=[broken]), nothing).passed
    assert not judge(Measured(latent_error=math.nan), nothing).passed
    verdict = judge(Measured(image=image(luminosity=2.0)), nothing)
    assert "the picture is black: luminosity 2.0" in verdict.failures[0]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"psnr": 12.0}, "PSNR 12.0 dB is below 22 dB"),
        ({"ssim": 0.4}, "SSIM 0.400 is below 0.8"),
        ({"luminosity": 90.0}, "luminosity moved by 30.0 of 255"),
    ],
)
def test_pictures(facts: dict[str, float], said: str) -> None:
    verdict = judge(Measured(image=image(**facts)), thresholds("normal"))
    assert len(verdict.failures) == 1 and said in verdict.failures[0]


def test_a_lora_that_is_gone_is_named() -> None:
    lost = lora_left("style.safetensors", [LayerDelta("a", Sums(1.0, 0.2, 0.1))])
    verdict = judge(Measured(loras=[lost]), thresholds("loose"))
    assert "style.safetensors: 10 % of its effect is left" in verdict.failures[0]


def test_a_large_latent_error() -> None:
    assert (
        "the latent differs by 0.5000"
        in (judge(Measured(latent_error=0.5), thresholds("normal")).failures[0])
    )


def test_places_of_layers() -> None:
    assert place_of("double_blocks.3.img_mlp.0") == ("double_blocks", 3, "img_mlp.0")
    assert place_of("blocks.11.self_attn.q") == ("blocks", 11, "self_attn.q")
    assert place_of("img_in") == ("", 0, "img_in")


def test_a_panel_for_each_stack_has_a_cell_for_each_layer() -> None:
    blocks, outside = panels([GOOD, BAD, LayerError("img_in", 0.0, 0.0, 1.0)])
    assert (blocks.stack, blocks.kinds) == ("double_blocks", ("img_mlp.0", "img_mlp.2"))
    assert blocks.blocks == (0, 1)
    assert blocks.errors[1][1] == 0.4 and math.isnan(blocks.errors[1][0])
    assert (outside.stack, outside.kinds) == ("", ("img_in",))


def test_the_heat_map_is_a_picture() -> None:
    figure = heatmap([GOOD, BAD], "title", "note")
    assert not isinstance(figure, str), figure
    drawn = pixels(figure)
    assert drawn.shape[0] == 1 and drawn.shape[3] == 3 and drawn.shape[2] > 600
    assert 0.0 <= float(drawn.min()) < float(drawn.max()) <= 1.0
    assert heatmap([LayerError("a.0.b", 0.0, 0.0, 1.0)], "t") == (
        "no chart: every layer is equal to its reference"
    )
