"""Load FP8 DiT on files of other tools: the weights are those of dequant, the model runs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

LAYER = "double_blocks.0.img_attn.qkv"


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


def run(flux: str, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A FLUX in bfloat16 and {tool: its file or folder of the same weights} -> facts."""
    torch.set_num_threads(1)
    h = _models()
    with torch.inference_mode():
        from fusequant.host.load import load_diffusion_model

        reference = h.output(load_diffusion_model(flux)[0])
        for tool, path in files.items():
            yield {"tool": tool, **_loaded(h, path, reference)}


def _loaded(h: Any, path: str, reference: torch.Tensor) -> dict[str, Any]:
    """What a file became as stored, and quantized to int8 on the way."""
    from fusequant.host.load import load_diffusion_model

    numbers = _numbers(path)
    model, report = load_diffusion_model(path)
    codes = [k for k in h.state(model) if k.endswith("comfy_quant")]
    worst = max(
        h.error(h.weight(model, name), wanted if codes else wanted.bfloat16().float())
        for name, wanted in numbers.items()
    )
    again = model.clone(force_deepcopy=True)
    made, told = load_diffusion_model(path, "int8")
    plain, _ = load_diffusion_model(path, "none")
    return {
        "worst": worst, "layers": len(numbers), "codes": len(codes), "text": report.text(),
        "error": h.error(h.output(model), reference),
        "same": h.error(h.output(model), h.output(plain)),
        "clone": torch.equal(h.output(again), h.output(model)),
        "int8": h.error(h.weight(made, LAYER), numbers[LAYER]), "quantized": told.quantized,
    }  # fmt: skip


def _numbers(path: str) -> dict[str, torch.Tensor]:
    """The numbers of the layers whose codes are stored, under ComfyUI's names."""
    from fusequant.engine.files.open import open_source
    from fusequant.engine.model import recognise
    from fusequant.engine.read import read
    from fusequant.engine.rows import rows_of

    source = open_source(path)
    found = {
        layer.name: rows_of(layer, source)(0, layer.shape[0]).clone()
        for layer in recognise(read(source)).layers
        if layer.scheme != "none"
    }
    source.close()
    return found
