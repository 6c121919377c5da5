"""Wan and text encoders through Quantize Model: every scheme runs, the source stays as it is."""

from __future__ import annotations

from typing import Any

import pytest

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

# block matrices; output error with 8 bits and with 4 (a narrow T5 of random numbers is chaotic)
FOUR_BITS = ("int4_g128", "nvfp4", "w4a8", "w4a4_convrot")
EXPECTED = {"wan": (20, 0.03, 0.2), "clip": (72, 0.2, 0.9), "t5": (168, 2.0, 2.0)}


@pytest.fixture(scope="module")
def lines(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One line for each model and scheme."""
    folder = tmp_path_factory.mktemp("families")
    return run_inside(
        comfy,
        "host_families",
        400,
        wan=tiny.wan(folder / "wan.safetensors"),
        clip=tiny.clip_l(folder / "clip.safetensors"),
        t5=tiny.t5(folder / "t5.safetensors"),
    )


@pytest.mark.parametrize("model", EXPECTED)
def test_every_scheme_runs_on_every_model(lines: list[dict[str, Any]], model: str) -> None:
    layers, eight_bits, four_bits = EXPECTED[model]
    found = [line for line in lines if line["model"] == model]
    assert len(found) >= 8
    for line in found:
        four = line["scheme"] in FOUR_BITS
        small = model == "t5" and four  # 4-bit attention is under 16 KiB
        assert line["layers"] == (72 if small else layers), line
        assert 0 < line["error"] < (four_bits if four else eight_bits), line
        assert line.get("upstream", True), line
