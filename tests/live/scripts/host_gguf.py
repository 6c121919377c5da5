"""Load FP8 DiT and the text encoder loader inside ComfyUI on GGUF files."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiny
import torch


def _beside(name: str) -> Any:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def run(
    flux: str, files: dict[str, list[str]], encoders: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """A FLUX, {type: (GGUF file, its dequantized twin)}, text encoder files -> facts."""
    torch.set_num_threads(1)
    h = _beside("host_models")
    with torch.inference_mode():
        for kind, (path, plain) in files.items():
            yield _flux(h, kind, flux, path, plain)
        yield _t5(_beside("encoder_files"), encoders)


def _flux(h: Any, kind: str, flux: str, path: str, plain: str) -> dict[str, Any]:
    """As stored: the weights of the twin; quantized while loading: the bits that the twin gives."""
    from fusequant.host.load import load_diffusion_model

    model, _ = load_diffusion_model(path)
    twin, _ = load_diffusion_model(plain)
    expected, held = h.state(twin), h.state(model)
    different = [
        key for key, value in expected.items() if not torch.equal(held[key].float(), value.float())
    ]
    reference = h.output(load_diffusion_model(flux)[0])
    made, report = load_diffusion_model(path, "int8")
    wanted, _ = load_diffusion_model(plain, "int8")
    codes = {key for key in h.state(made) if key.endswith("weight")}
    return {
        "file": kind, "different": different, "compared": len(expected),
        "same_output": h.error(h.output(model), h.output(twin)) < 1e-6,
        "error": h.error(h.output(model), reference),
        "copy": torch.equal(h.output(model.clone(force_deepcopy=True)), h.output(model)),
        "layers": report.quantized, "warnings": report.warnings,
        "int8_bits": all(
            _close(h.state(made)[key], h.state(wanted)[key]) for key in sorted(codes)
        ),
    }  # fmt: skip


def _close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Codes that differ by one at most: the twin's weights were rounded to 16 bits before."""
    if first.dtype != torch.int8:
        return torch.equal(first.float(), second.float())
    return int((first.int() - second.int()).abs().max()) <= 1


def _t5(h: Any, encoders: dict[str, str]) -> dict[str, Any]:
    """T5 beside CLIP-L as FLUX has them, as stored and in int8."""
    import comfy.sd

    from fusequant.host.text_encoder import load_text_encoder

    def options() -> dict[str, Any]:
        return {**tiny.clip_l_options(width=256, layers=3), **tiny.t5_options()}

    def output(clip: Any) -> torch.Tensor:
        tokens = clip.tokenize("a photograph of a red fox in the snow")
        return clip.encode_from_tokens(tokens).float()

    def stock(t5: str) -> torch.Tensor:
        return output(comfy.sd.load_clip(
            [encoders["clip"], t5], clip_type=comfy.sd.CLIPType.FLUX, model_options=options()
        ))  # fmt: skip

    wanted, paths = stock(encoders["t5"]), [encoders["clip"], encoders["gguf"]]
    clip, _ = load_text_encoder(paths, "flux", options=options())
    small, report = load_text_encoder(paths, "flux", "int8", options=options())
    return {
        "file": "t5", "error": h.error(output(clip), wanted),
        "as_mended": h.error(output(clip), stock(encoders["mended"])),
        "int8": h.error(output(small), wanted), "layers": report.quantized,
    }  # fmt: skip
