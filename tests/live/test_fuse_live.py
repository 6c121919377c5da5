"""Fused weights are those of ComfyUI's own LoRA code, for every spelling and adapter it knows."""

from __future__ import annotations

import pytest

from .comfy import Comfy
from .inprocess import run_inside


@pytest.mark.parametrize("family", ["flux", "wan", "qwen_image", "z_image", "hunyuan_video"])
def test_fused_weights_equal_cores(comfy: Comfy, family: str) -> None:
    lines = run_inside(comfy, "fuse_against_core", family=family)
    assert [line for line in lines if not line["ok"]] == []
    assert sum(line["keys"] for line in lines) > 200
