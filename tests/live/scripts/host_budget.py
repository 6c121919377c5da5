"""Quantize Model within a byte budget and with better rounding inside ComfyUI: facts."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


def run(model: str, lora: str, folder: str) -> Iterator[dict[str, Any]]:
    """The file of a FLUX, a LoRA for it and a user folder -> facts."""
    import comfy.sd
    import folder_paths

    from fusequant.host.cached import quantize_model
    from fusequant.host.pristine import Request

    folder_paths.set_user_directory(folder)
    torch.set_num_threads(1)
    h = _models()
    source = comfy.sd.load_diffusion_model(model)
    reference, patched = h.output(source), h.with_lora(source, lora)
    whole = Path(model).stat().st_size
    with torch.inference_mode():
        for share in (0.4, 0.6):
            request = Request(cache="off", max_bytes=int(whole * share))
            made, report = quantize_model(source, request)
            yield {
                "fact": "budget", "share": share, "error": h.error(h.output(made), reference),
                "bytes": _bytes(made), "limit": int(whole * share), "text": report.text(),
                "schemes": dict(Counter(report.schemes)), "kept": list(report.kept),
            }  # fmt: skip
        plain, _ = quantize_model(source, Request("int8_convrot", cache="off"))
        yield {"fact": "plain", "error": h.error(h.output(plain), reference),
               "bytes": _bytes(plain)}  # fmt: skip
        yield from _ways(h, patched, int(whole * 0.75))
        yield from _refusals(source)
    yield from _rounded(h, source, model, folder)


def _ways(h: Any, patched: Any, limit: int) -> Iterator[dict[str, Any]]:
    """In memory, from the cache twice, made again from the recipe: the same bits."""
    from fusequant.host.cached import quantize_model
    from fusequant.host.pristine import Request

    request = Request("int8", max_bytes=limit, rounding="learned", cache="off")
    memory, told = quantize_model(patched, request)
    kept = Request("int8", max_bytes=limit, rounding="learned", cache="on")
    first, wrote = quantize_model(patched, kept)
    second, read = quantize_model(patched, kept)
    again = memory.clone(force_deepcopy=True)
    bits = h.state(memory)
    yield {
        "fact": "ways", "written": any("written to" in n for n in wrote.notes),
        "read": any("from the cache" in note for note in read.notes),
        "told": any("predicted error" in note for note in read.notes),
        "same": [h.same(_coded(bits), _coded(h.state(m))) for m in (first, second, again)],
        "live": len(memory.patches), "patches": len(patched.patches), "fused": told.fused,
        "left": told.text(),
    }  # fmt: skip


def _rounded(h: Any, source: Any, model: str, folder: str) -> Iterator[dict[str, Any]]:
    """How many codes are those of the file that the command line writes with learned rounding."""
    from safetensors.torch import load_file

    from fusequant.engine.files.open import open_source
    from fusequant.engine.pipeline import Request as Conversion
    from fusequant.engine.pipeline import convert, prepare
    from fusequant.host.cached import quantize_model
    from fusequant.host.pristine import Request

    target = Path(folder) / "learned.safetensors"
    convert(prepare(open_source(model), [], Conversion("int8", rounding="learned")), target)
    written = load_file(target)
    for how in ("nearest", "learned"):
        with torch.inference_mode():
            made, report = quantize_model(source, Request("int8", cache="off", rounding=how))
        state = h.state(made)
        codes = [key for key, tensor in written.items() if tensor.dtype == torch.int8]
        alike = [
            float((state[key].view(torch.int8) == written[key]).float().mean()) for key in codes
        ]
        yield {"fact": "rounding", "how": how, "alike": min(alike), "text": report.text()}


def _coded(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of quantized layers."""
    layers = {name.removesuffix("comfy_quant") for name in state if name.endswith("comfy_quant")}
    ends = ("weight", "weight_scale", "weight_zeros")
    return {k: t for k, t in state.items() if any(k == x + e for x in layers for e in ends)}


def _bytes(patcher: Any) -> int:
    """What the weights take; biases as in the file, which ComfyUI widens where it computes so."""
    state = patcher.model.diffusion_model.state_dict()
    return sum(
        2 * tensor.numel() if name.endswith("bias") else tensor.nbytes
        for name, tensor in state.items()
    )


def _refusals(source: Any) -> Iterator[dict[str, Any]]:
    from fusequant.engine.errors import Refused
    from fusequant.host.cached import quantize_model
    from fusequant.host.pristine import Request

    for request in (Request(cache="off", max_bytes=1000), Request("fp8", max_bytes=1000)):
        try:
            quantize_model(source, request)
        except Refused as refused:
            yield {"fact": "too small", "kind": refused.kind, "expected": refused.expected}
