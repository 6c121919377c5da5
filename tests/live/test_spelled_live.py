"""Diffusers checkpoints under core's names hold the numbers that ComfyUI's own conversion gives."""

from __future__ import annotations

from .comfy import Comfy
from .inprocess import run_inside


def test_diffusers_names_become_what_core_makes_of_them(comfy: Comfy) -> None:
    lines = {line["name"]: line for line in run_inside(comfy, "spelled_against_core")}
    assert set(lines) == {"flux", "z_image", "sd3"}
    for name, line in lines.items():
        assert (line["family"], line["spelling"]) == (name, "diffusers")
        assert line["differ"] == [] and line["keys"] >= 40, line
