"""LightX2V's nvfp4 and mxfp8 files in ComfyUI: mended ones in the stock loader, all in ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusequant.cli.main import main

from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

KINDS = ("nvfp4", "mxfp8")
Facts = dict[str, dict[str, dict[str, Any]]]


def spelled(core: Path, out: Path) -> int:
    """One of ComfyUI's files as LightX2V spells it -> how many layers are quantized."""
    tensors, count = load_file(core), 0
    for key in [x for x in tensors if x.endswith(".comfy_quant")]:
        name, count = key.removesuffix(".comfy_quant"), count + 1
        kind = json.loads(bytes(tensors.pop(key).tolist()))["format"]
        codes = tensors[f"{name}.weight"].view(torch.uint8)
        if kind == "nvfp4":
            codes = codes << 4 | codes >> 4
            scale = tensors[f"{name}.weight_scale"].view(torch.float8_e4m3fn)
            tensors[f"{name}.weight_scale"] = scale
            tensors[f"{name}.weight_global_scale"] = 1 / tensors.pop(f"{name}.weight_scale_2")
        tensors[f"{name}.weight"] = codes
    save_file(tensors, out)
    return count


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """{kind: what the stock loader and ours say of the file}."""
    folder = tmp_path_factory.mktemp("lightx2v")
    flux = tiny.flux(folder / "flux.safetensors")
    pairs, files, counts = [], {}, {}
    for kind in KINDS:
        core, theirs, mended, plain = (
            folder / f"{kind}-{what}.safetensors" for what in ("core", "theirs", "mended", "plain")
        )
        assert main(["convert", str(flux), "--scheme", kind, "--out", str(core)]) == 0
        counts[kind] = spelled(core, theirs)
        assert main(["repair", str(theirs), "--out", str(mended)]) == 0
        assert main(["dequant", str(mended), "--out", str(plain)]) == 0
        pairs.append((kind, str(mended), str(plain)))
        files[kind] = str(theirs)
    stock = {line["scheme"]: line for line in run_inside(comfy, "saved_files", pairs=pairs)}
    own = {x["tool"]: x for x in run_inside(comfy, "tool_files", 400, flux=flux, files=files)}
    return {kind: {"stock": stock[kind], "own": own[kind], "count": counts} for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mended_file_opens_in_the_stock_loader_with_the_bits_of_dequant(
    facts: Facts, kind: str
) -> None:
    line = facts[kind]["stock"]
    assert line["different"] == []
    assert line["quantized"] == facts[kind]["count"][kind] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_our_loader_keeps_the_codes_of_the_file_itself(facts: Facts, kind: str) -> None:
    line, count = facts[kind]["own"], facts[kind]["count"][kind]
    assert line["layers"] == line["codes"] == count
    assert line["worst"] < 1e-6 and line["clone"]
    assert "became floating point" not in line["text"]
    assert line["error"] < (0.4 if kind == "nvfp4" else 0.1)
