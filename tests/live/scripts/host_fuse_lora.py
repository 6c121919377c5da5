"""Fuse LoRA inside ComfyUI on a tiny FLUX and Wan: one line of facts for each question."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

SCHEMES = ("fp8", "int8", "int8_convrot")
LAYER = "double_blocks.0.img_attn.qkv"
KEY = f"diffusion_model.{LAYER}.weight"


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


def run(**files: str) -> Iterator[dict[str, Any]]:
    """The files of models and LoRAs, by name -> facts."""
    import comfy.sd
    import comfy_extras.nodes_model_merging  # noqa: F401  what a server has loaded

    torch.set_num_threads(1)
    h = _models()
    before = h.host_objects()
    source = comfy.sd.load_diffusion_model(files["flux"])
    reference = h.output(source)
    bits = {name: tensor.clone() for name, tensor in h.state(source).items()}
    with torch.inference_mode():
        yield from _order(h, source, files)
        yield from _spellings(h, source, files)
        yield from _baked(h, source, files)
        yield from _stored(h, source, files)
        yield from _kinds(h, source, files)
        yield from _refused(source, files)
    yield {"fact": "upstream", "output": torch.equal(h.output(source), reference),
           "bits": h.same(h.state(source), bits)}  # fmt: skip
    after = h.host_objects()
    changed = [name for name, found in before.items() if after.get(name) != found]
    yield {"fact": "host untouched", "changed": changed}


def _fuse(
    patcher: Any, *loras: tuple[str, float], bake: bool = False, rslora: bool = False
) -> tuple[Any, Any]:
    from fusequant.host.fuse_lora import fuse_loras
    from fusequant.host.lora_match import Lora

    return fuse_loras(patcher, [Lora(Path(path), s, rslora) for path, s in loras], bake)


def _quantized(patcher: Any, scheme: str, **more: Any) -> Any:
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    return quantize_model(patcher, Request(scheme, **more))[0]


def _wanted(h: Any, patcher: Any, key: str = KEY) -> torch.Tensor:
    """The weight of one layer with a patcher's patches, in float32."""
    import comfy.lora

    layer = key.removeprefix("diffusion_model.").rpartition(".")[0]
    return comfy.lora.calculate_weight(patcher.patches[key], h.weight(patcher, layer).clone(), key)


def _order(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Before Quantize, after it, after it by ComfyUI's own loader."""
    import comfy.model_management

    pair = ((files["lora"], 0.8), (files["other"], -0.5))
    for scheme in SCHEMES:
        with h.Counted() as counted:
            deferred, report = _fuse(source, *pair)
            first = _quantized(deferred, scheme)
        then, told = _fuse(_quantized(source, scheme), *pair)
        between, _ = _fuse(_quantized(_fuse(source, pair[0])[0], scheme), pair[1])
        late = h.with_lora(_quantized(source, scheme), files["lora"], 0.8)
        late = h.with_lora(late, files["other"], -0.5)
        comfy.model_management.load_models_gpu([late])
        wanted, after = _wanted(h, deferred), h.weight(late, LAYER)
        late.unpatch_model()
        yield {
            "fact": "order", "scheme": scheme, "fused": h.error(h.weight(first, LAYER), wanted),
            "core_after": h.error(after, wanted), "times": sorted(set(counted.layers.values())),
            "layers": len(counted.layers), "live": len(first.patches), "text": report.text(),
            "after": h.same(h.state(then), h.state(first)), "told": told.text(),
            "between": h.same(h.state(between), h.state(first)),
            "rebuilt": torch.equal(h.output(then.clone(force_deepcopy=True)), h.output(then)),
        }  # fmt: skip
    keep = ("double_blocks.0.*",)
    kept, _ = _fuse(_quantized(source, "int8", keep=keep), pair[0])
    wanted = _quantized(_fuse(source, pair[0])[0], "int8", keep=keep)
    yield {"fact": "kept layers", "live": sorted(kept.patches) == sorted(wanted.patches),
           "count": len(kept.patches),
           "output": torch.equal(h.output(kept), h.output(wanted))}  # fmt: skip


def _spellings(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Our patches against those of ComfyUI's own loader, and what only we can read."""
    for name in ("lora", "diffusers", "kohya", "alpha", "dora"):
        for strength in (1.0, -0.6):
            ours = _fuse(source, (files[name], strength))[0]
            core = h.with_lora(source, files[name], strength)
            errors = [h.error(_wanted(h, ours, key), _wanted(h, core, key)) for key in core.patches]
            yield {"fact": "as core", "name": name, "strength": strength, "worst": max(errors),
                   "keys": sorted(ours.patches) == sorted(core.patches)}  # fmt: skip
    ours, report = _fuse(source, (files["unknown_to_host"], 1.0))
    native = _fuse(source, (files["lora"], 1.0))[0]
    yield {"fact": "only ours", "core": len(h.with_lora(source, files["unknown_to_host"]).patches),
           "same": h.error(_wanted(h, ours), _wanted(h, native)),
           "keys": len(ours.patches)}  # fmt: skip
    zero, report = _fuse(source, (files["lora"], 0.0))
    yield {"fact": "zero", "patches": len(zero.patches), "text": report.text()}
    plain = _wanted(h, _fuse(source, (files["alpha"], 1.0))[0]) - h.weight(source, LAYER)
    wide = _wanted(h, _fuse(source, (files["alpha"], 1.0), rslora=True)[0])
    wide = wide - h.weight(source, LAYER)
    yield {"fact": "rslora", "ratio": float(wide.norm() / plain.norm())}
    extra, report = _fuse(source, (files["extra"], 1.0))
    uses = extra.get_attachment("fusequant_loras")
    yield {"fact": "unmatched", "text": report.text(), "patches": len(extra.patches),
           "uses": [(Path(use.file).name, use.strength, use.matched) for use in uses]}  # fmt: skip


def _baked(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Baked into an owned copy, quantized after it, and another LoRA on top."""
    deferred, _ = _fuse(source, (files["lora"], 0.8))
    baked, report = _fuse(source, (files["lora"], 0.8), bake=True)
    stored = baked.model.diffusion_model.get_submodule(LAYER).weight
    wanted = _wanted(h, deferred)
    again, _ = _fuse(baked, (files["other"], 0.5), bake=True)
    both, _ = _fuse(source, (files["lora"], 0.8), (files["other"], 0.5), bake=True)
    yield {
        "fact": "baked", "patches": len(baked.patches), "text": report.text(),
        "dtype": str(stored.dtype), "once": torch.equal(stored, wanted.to(stored.dtype)),
        "output": h.error(h.output(baked), h.output(deferred)),
        "rebuilt": h.same(h.state(baked.clone(force_deepcopy=True)), h.state(baked)),
        "quantized": h.same(
            h.state(_quantized(baked, "int8")), h.state(_quantized(deferred, "int8"))
        ),
        "again": h.same(h.state(again), h.state(both)),
    }  # fmt: skip


def _stored(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A file that is fp8 already: named as such, fused all the same, nothing lost."""
    import comfy.sd

    path = f"{files['folder']}/fp8.safetensors"
    comfy.sd.save_checkpoint(path, _quantized(source, "fp8"))
    stored = comfy.sd.load_diffusion_model(path)
    base = h.weight(stored, LAYER)
    deferred, report = _fuse(stored, (files["lora"], 1.0))
    wanted = _wanted(h, deferred)
    baked, told = _fuse(stored, (files["lora"], 1.0), bake=True)
    yield {
        "fact": "stored fp8", "text": report.text(), "baked": told.text(),
        "delta": h.error(base, wanted), "error": h.error(h.weight(baked, LAYER), wanted),
        "quantized": h.error(h.weight(_quantized(deferred, "int8"), LAYER), wanted),
        "untouched": torch.equal(h.weight(stored, LAYER), base), "left": len(baked.patches),
    }  # fmt: skip


def _kinds(h: Any, source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Adapters that ComfyUI would read otherwise: PEFT's magnitude, a video convolution."""
    import comfy.sd

    wan = comfy.sd.load_diffusion_model(files["wan"])
    for name, patcher in (("magnitude", source), ("conv", wan)):
        ours, _ = _fuse(patcher, (files[name], 0.7))
        key = _changed_by(files[name])
        wanted = _by_rows(h, patcher, files[name], 0.7, key)
        line = {
            "fact": "kind", "name": name, "error": h.error(_wanted(h, ours, key), wanted),
            "change": h.error(h.weight(patcher, key[16:].rpartition(".")[0]), wanted),
        }  # fmt: skip
        if patcher is source:  # from here on the shared module carries the LoRA
            output = h.output(ours)
            part = ours.clone()
            part.partially_load(torch.device("cpu"), extra_memory=1 << 18)
            line["partly"] = h.error(h.output(part), output)
            part.unpatch_model()
        yield line


def _changed_by(path: str) -> str:
    from safetensors import safe_open

    marks = (".lora_magnitude_vector", ".lora_mid.weight")
    with safe_open(path, "pt") as file:
        name = next(name for name in file.keys() if name.endswith(marks))  # noqa: SIM118
    return name.removesuffix(marks[0]).removesuffix(marks[1]) + ".weight"


def _by_rows(h: Any, patcher: Any, path: str, strength: float, key: str) -> torch.Tensor:
    """The engine's own sum."""
    from fusequant.engine.fuse.lora import match, open_lora
    from fusequant.host.lora_match import engine_model

    model = engine_model(patcher.model)
    layer = next(x for x in model.layers if f"diffusion_model.{x.key}" == key)
    base = h.weight(patcher, layer.name)
    fused = match([open_lora(path, strength)], model)
    read = fused.reader(layer, lambda a, b: base.flatten(1)[a:b].clone())
    return read(0, base.shape[0]).reshape(base.shape)


def _refused(source: Any, files: dict[str, str]) -> Iterator[dict[str, Any]]:
    from fusequant.engine.errors import Refused

    for name in ("nan", "wan_lora", "flux"):
        try:
            _fuse(source, (files[name], 1.0))
            yield {"fact": "refused", "name": name, "kind": None}
        except Refused as refused:
            yield {"fact": "refused", "name": name, "kind": refused.kind}
