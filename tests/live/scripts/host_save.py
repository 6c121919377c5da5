"""Save Quantized Model inside ComfyUI on a tiny FLUX: one line of facts a question."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

BLOCKS = ("mxfp8", "nvfp4", "w4a4_convrot", "w4a8")
CORE = ("fp8", "fp8_e5m2", "int8", "int8_convrot", "int8_weight_only", *BLOCKS)
OWN = ("fp8_row", "int4_g128")
Lines = Iterator[dict[str, Any]]


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


def run(model: str, lora: str, folder: str) -> Lines:
    """The file of a FLUX, a LoRA for it and an output folder -> facts."""
    import comfy.sd
    import folder_paths

    torch.set_num_threads(1)
    folder_paths.set_output_directory(folder)
    h = _models()
    source = comfy.sd.load_diffusion_model(model)
    reference = h.output(source)
    with torch.inference_mode():
        yield from _schemes(h, source)
        yield from _loras(h, source, lora)
        yield from _refused(h, source, folder)
    yield {"fact": "upstream", "same": torch.equal(h.output(source), reference)}


def _quantize(patcher: Any, scheme: str, backend: str | None = None) -> Any:
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    return quantize_model(patcher, Request(scheme, backend=backend))[0]


def _save(patcher: Any, prefix: str = "diffusion_models/saved") -> Any:
    from fusequant.host.save import save_model

    return save_model(patcher, prefix)


def _open(path: Path, stock: bool) -> Any:
    import comfy.sd

    from fusequant.host.load import load_diffusion_model

    if stock:
        return comfy.sd.load_diffusion_model(str(path))
    return load_diffusion_model(path)[0]


def _schemes(h: Any, source: Any) -> Lines:
    """Every scheme: the file opens with the same output, by the stock loader where it can.

    Multiplied by the host's code both times, so that not a bit may differ.
    """
    from safetensors import safe_open

    for scheme in (*CORE, *OWN):
        made = _quantize(source, scheme, "kitchen" if scheme in CORE else None)
        path, report = _save(made)
        again = _open(path, scheme in CORE)
        with safe_open(str(path), framework="pt") as opened:
            recipe = json.loads(opened.metadata()["fusequant"])
            dtypes = {opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118
        yield {
            "fact": "scheme", "scheme": scheme, "text": report.text(), "name": path.name,
            "output": h.error(h.output(again), h.output(made)), "dtypes": sorted(dtypes),
            "recipe": recipe, "size": path.stat().st_size,
        }  # fmt: skip


def _loras(h: Any, source: Any, lora: str) -> Lines:
    """A LoRA after quantizing is fused first in the file; so is a live one; others are added."""
    from fusequant.host.live_lora import add_live_loras
    from fusequant.host.lora import Lora

    for scheme in ("int8", "fp8"):
        fused = _open(_save(_quantize(h.with_lora(source, lora), scheme))[0], True)
        quantized = _quantize(source, scheme)
        late, report = _save(h.with_lora(quantized, lora))
        live, _ = _save(add_live_loras(quantized, [Lora(Path(lora), 1.0)])[0])
        yield {
            "fact": "lora", "scheme": scheme, "text": report.text(),
            "late": h.same(h.state(_open(late, True)), h.state(fused)),
            "live": h.error(h.output(_open(live, True)), h.output(fused)),
        }  # fmt: skip
    stored = _open(_save(_quantize(source, "fp8"))[0], True)
    path, _ = _save(h.with_lora(stored, lora))
    layer = "double_blocks.0.img_attn.qkv"
    patches = h.with_lora(source, lora).patches[f"diffusion_model.{layer}.weight"]
    import comfy.lora

    wanted = comfy.lora.calculate_weight(patches, h.weight(source, layer).clone(), layer)
    yield {"fact": "lora on a stored file", "error": h.error(h.weight(_open(path, True), layer),
           wanted), "base": h.error(h.weight(source, layer), wanted)}  # fmt: skip
    path, report = _save(h.with_lora(source, lora))
    plain = _open(path, True)
    yield {"fact": "unquantized", "text": report.text(),
           "error": h.error(h.weight(plain, layer), wanted)}  # fmt: skip
    loaded = h.with_lora(source, lora)
    h.output(loaded)  # the shared weights carry the LoRA now
    path, _ = _save(source)
    h.output(source)
    same = torch.equal(h.weight(_open(path, True), layer), h.weight(source, layer))
    yield {"fact": "while another LoRA is loaded", "same": same}


def _refused(h: Any, source: Any, folder: str) -> Lines:
    """Names outside the output folder; an interrupt leaves nothing."""
    import comfy.model_management

    from fusequant.engine.errors import Refused

    for prefix in ("../outside", "/outside/of/it", "", "folder/"):
        try:
            _save(source, prefix)
            yield {"fact": "name", "prefix": prefix, "kind": None}
        except Refused as refused:
            yield {"fact": "name", "prefix": prefix, "kind": refused.kind}
    before = sorted(str(path) for path in Path(folder).rglob("*"))
    made = _quantize(source, "int8")
    comfy.model_management.interrupt_current_processing()
    try:
        _save(made)
        raised = None
    except comfy.model_management.InterruptProcessingException as stopped:
        raised = type(stopped).__name__
    left = sorted(str(path) for path in Path(folder).rglob("*"))
    yield {"fact": "interrupt", "raised": raised, "nothing_left": left == before}
