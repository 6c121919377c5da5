"""Files of `convert`, opened by stock ComfyUI: the weights of `dequant`, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusequant.cli.main import main

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

# schemes whose format ComfyUI 0.33 has
CORE_SCHEMES = (
    "none", "fp8", "fp8_e5m2", "int8", "int8_convrot", "int8_weight_only", "mxfp8", "nvfp4",
    "w4a4_convrot", "w4a8",
)  # fmt: skip


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_stock_comfyui_holds_the_numbers_that_dequant_writes(
    comfy: Comfy, tmp_path: Path, family: str
) -> None:
    model = getattr(tiny, family)(tmp_path / "model.safetensors")
    lora = tiny.lora(tmp_path / "lora.safetensors", model)
    pairs = []
    for scheme in CORE_SCHEMES:
        made, plain = tmp_path / f"{scheme}.safetensors", tmp_path / f"{scheme}-plain.safetensors"
        words = ["convert", model, "--lora", f"{lora}:0.8", "--scheme", scheme, "--out", made]
        assert main([str(word) for word in words]) == 0
        assert main(["dequant", str(made), "--out", str(plain)]) == 0
        pairs.append((scheme, str(made), str(plain)))
    for line in run_inside(comfy, "saved_files", pairs=pairs):
        assert line["different"] == [], line["scheme"]
        assert line["compared"] > 20
        assert (line["quantized"] > 0) == (line["scheme"] != "none")
