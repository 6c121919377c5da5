"""FLUX.2, Chroma, Z-Image, SD3.5, LTX-Video and HunyuanVideo 1.5 inside ComfyUI.

Loaded as stored, loaded to int8, and quantized after loading; each run once. HiDream, Lumina 2 and
LTX-2 are too large at the sizes that core fixes: for them test_spec_models builds core's own model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from . import tiny_more
from .comfy import Comfy
from .inprocess import run_inside

# maker: core's class, our family, quantized layers, bound of the output's error in 8 bits
EXPECTED = {
    "flux2": ("Flux2", "FLUX.2", 2 * 8 + 2 * 2, 0.06),
    "chroma": ("Chroma", "Chroma", 8 + 2, 0.12),
    "z_image": ("ZImage", "Z-Image", 5 * 5, 0.12),
    "sd35": ("SD3", "Stable Diffusion 3", 4 * 10 - 3 + 2, 0.06),
    "ltx": ("LTXV", "LTX-Video", 2 * 10, 0.03),
    "hunyuan_15": ("HunyuanVideo15", "HunyuanVideo", 2 * 10, 0.03),
}
WIDE = ("chroma", "z_image")
KEPT = {"z_image": 4 * 5}  # Quantize Model leaves the refiners here: minutes less

Facts = dict[str, dict[str, Any]]


def facts_of(comfy: Comfy, folder: Path, name: str) -> Facts:
    """What the script found out about one model, by question."""
    path = getattr(tiny_more, name)(folder / f"{name}.safetensors")
    more: dict[str, Any] = {}
    if name == "flux2":
        more["spelled"] = tiny_more.flux2_as_diffusers(folder / "diffusers.safetensors", path)
    seconds = 1500 if name in WIDE else 580
    lines = run_inside(comfy, "host_more_models", seconds, model=name, path=path, **more)
    return {line.pop("fact"): line for line in lines}


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.slow] if x in WIDE else []) for x in EXPECTED]
)
def test_a_model_runs_as_stored_and_in_8_bits(comfy: Comfy, tmp_path: Path, name: str) -> None:
    built, family, layers, bound = EXPECTED[name]
    facts = facts_of(comfy, tmp_path, name)
    assert facts["stored"]["class"] == built
    assert facts["stored"]["finite"] and facts["stored"]["size"] > 1
    for how in ("int8", "quantized"):
        made = layers - (KEPT.get(name, 0) if how == "quantized" else 0)
        assert (facts[how]["family"], facts[how]["layers"]) == (family, made), how
        assert facts[how]["error"] is None or 0 < facts[how]["error"] < bound, how
    assert facts["int8"]["error"] is not None
    assert facts["int8"]["warnings"] == []
    assert facts["quantized"]["bits"]
    if name == "flux2":
        assert facts["spelled"]["same"] and facts["spelled"]["family"] == family
    if name == "ltx":  # from the header of the file, which only tells it to the loader
        assert {facts[how]["settings"] for how in ("stored", "int8", "quantized")} == {True}
