"""Fused weights are those of ComfyUI's own LoRA code, for every spelling and adapter it knows."""

from __future__ import annotations

import pytest

from .comfy import Comfy
from .inprocess import run_inside
from .scripts.fuse_models import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_fused_weights_equal_cores(comfy: Comfy, name: str) -> None:
    lines = run_inside(comfy, "fuse_against_core", name=name)
    assert [line for line in lines if not line["ok"]] == []
    assert sum(line["keys"] for line in lines) > 200
