"""Load FP8 DiT inside ComfyUI on a FLUX of Diffusers as other tools quantize and save it."""

from __future__ import annotations

from typing import Any

import pytest
from safetensors.torch import load_file

from ..engine.tool_files import HOMES, SPELL, as_diffusers, save, save_folder
from . import tiny
from .comfy import Comfy
from .inprocess import run_inside

LAYERS = 26
FOLDERS = ("quanto_int8", "bitsandbytes_nf4")
TOOLS = (*SPELL, *(f"{tool} folder" for tool in FOLDERS))


@pytest.fixture(scope="module")
def facts(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the script found out, by tool."""
    folder = tmp_path_factory.mktemp("tools")
    flux = tiny.flux(folder / "flux.safetensors")
    state = as_diffusers(load_file(flux))
    files = {}
    for tool in SPELL:
        files[tool] = str(folder / f"{tool}.safetensors")
        save(tool, state, folder / f"{tool}.safetensors")
    for tool in FOLDERS:
        files[f"{tool} folder"] = str(folder / tool)
        save_folder(tool, state, folder / tool / "transformer")
    lines = run_inside(comfy, "tool_files", 400, flux=flux, files=files)
    return {line["tool"]: line for line in lines}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_weights_are_those_of_dequant(facts: dict[str, dict[str, Any]], tool: str) -> None:
    line = facts[tool]
    assert line["layers"] == LAYERS
    assert line["worst"] < 1e-6
    assert line["same"] < 0.01 and line["clone"]
    assert line["error"] < (0.05 if "8" in tool else 0.3)


@pytest.mark.parametrize("tool", TOOLS)
def test_codes_stay_codes_where_a_scheme_holds_them(
    facts: dict[str, dict[str, Any]], tool: str
) -> None:
    line = facts[tool]
    held = tool.split(" ")[0] in HOMES
    assert line["codes"] == (LAYERS if held else 0)
    assert ("became floating point" in line["text"]) == (not held)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_scheme_on_load_quantizes_every_layer(
    facts: dict[str, dict[str, Any]], tool: str
) -> None:
    line = facts[tool]
    assert line["quantized"] == LAYERS
    assert line["int8"] < 0.02
