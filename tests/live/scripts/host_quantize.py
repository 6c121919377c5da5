"""Quantize Model inside ComfyUI on a tiny FLUX: one line of facts for each question."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

LAYER = "double_blocks.0.img_attn.qkv"
BLOCKS = ("mxfp8", "nvfp4", "w4a4_convrot", "w4a8")
CORE = ("fp8", "fp8_e5m2", "int8", "int8_convrot", "int8_weight_only", *BLOCKS)
OWN = ("fp8_row", "fp8_block128", "int4_g128")


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


def run(model: str, lora: str, folder: str) -> Iterator[dict[str, Any]]:
    """The file of a FLUX, a LoRA for it and a folder to save in -> facts."""
    import comfy.model_management
    import comfy.sd
    import comfy_extras.nodes_model_merging  # noqa: F401  what a server has loaded

    torch.set_num_threads(1)
    h = _models()
    before = h.host_objects()
    source = comfy.sd.load_diffusion_model(model)
    reference = h.output(source)
    bits = {name: tensor.clone() for name, tensor in h.state(source).items()}
    with torch.inference_mode():
        yield from _schemes(h, source, reference, folder)
        yield from _lora(h, source, lora, folder)
        yield from _again(h, source, lora)
        yield from _refusals(h, source)
        yield from _backends(h, source, folder)
    yield from _compiled(source)
    yield {"fact": "upstream", "output": torch.equal(h.output(source), reference),
           "bits": h.same(h.state(source), bits)}  # fmt: skip
    after = h.host_objects()
    changed = [name for name, found in before.items() if after.get(name) != found]
    yield {"fact": "host untouched", "changed": changed, "looked_at": len(before)}


def _quantize(patcher: Any, scheme: str, **more: Any) -> Any:
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    return quantize_model(patcher, Request(scheme, **more))


def _schemes(h: Any, source: Any, reference: torch.Tensor, folder: str) -> Iterator[dict[str, Any]]:
    """Every scheme: runs, saves, loads again bit for bit, clones, loads in part."""
    import comfy.sd

    from fusequant.host.load import load_diffusion_model

    for scheme in (*CORE, *OWN):
        with h.Counted() as counted:
            made, report = _quantize(source, scheme)
        output = h.output(made)
        part = made.clone()
        part.partially_load(torch.device("cpu"), extra_memory=1 << 20)
        partly = h.output(part)
        copy = h.output(made.clone(force_deepcopy=True))
        path = f"{folder}/{scheme}.safetensors"
        comfy.sd.save_checkpoint(path, made)
        stock = scheme in CORE
        again = comfy.sd.load_diffusion_model(path) if stock else load_diffusion_model(path)[0]
        codes = {k: v for k, v in h.state(made).items() if "quant" in k or "scale" in k}
        codes |= {k.replace("_scale", ""): h.state(made)[k.replace("_scale", "")] for k in codes
                  if k.endswith("weight_scale")}  # fmt: skip
        reloaded = {name: tensor for name, tensor in h.state(again).items() if name in codes}
        yield {
            "fact": "scheme", "scheme": scheme, "error": h.error(output, reference),
            "layers": report.quantized, "times": sorted(set(counted.layers.values())),
            "counted": len(counted.layers), "clone": torch.equal(h.output(made.clone()), output),
            "partly": torch.equal(partly, output), "rebuilt": torch.equal(copy, output),
            "reloaded_bits": h.same(reloaded, codes),
            "reloaded_output": h.error(h.output(again), output),
            "saved": report.bytes_after / report.bytes_before, "text": report.text(),
        }  # fmt: skip


def _lora(h: Any, source: Any, lora: str, folder: str) -> Iterator[dict[str, Any]]:
    """Fused before against added after, and a LoRA on a source whose file is quantized."""
    import comfy.model_management
    import comfy.sd

    patched = h.with_lora(source, lora)
    patches = {key: list(found) for key, found in patched.patches.items()}
    key = f"diffusion_model.{LAYER}.weight"
    plain = h.weight(source, LAYER)
    wanted = comfy.lora.calculate_weight(patches[key], plain.clone(), key)
    for scheme in (*CORE, *OWN):
        fused, report = _quantize(patched, scheme)
        after = h.with_lora(_quantize(source, scheme)[0], lora)
        comfy.model_management.load_models_gpu([after])
        late = h.weight(after, LAYER)
        after.unpatch_model()
        yield {
            "fact": "lora", "scheme": scheme, "fused": h.error(h.weight(fused, LAYER), wanted),
            "after": h.error(late, wanted), "live": len(fused.patches), "layers": report.fused,
            "untouched": torch.equal(h.weight(source, LAYER), plain),
        }  # fmt: skip
    stored = comfy.sd.load_diffusion_model(f"{folder}/fp8.safetensors")
    base = h.weight(stored, LAYER)
    wanted = comfy.lora.calculate_weight(patches[key], base.clone(), key)
    made, _ = _quantize(h.with_lora(stored, lora), "int8")
    yield {"fact": "quantized source", "delta": h.error(base, wanted),
           "error": h.error(h.weight(made, LAYER), wanted)}  # fmt: skip
    kept, report = _quantize(stored, "fp8")
    yield {"fact": "stored already", "quantized": report.quantized,
           "bits": h.same(h.state(kept), h.state(stored))}  # fmt: skip


def _again(h: Any, source: Any, lora: str) -> Iterator[dict[str, Any]]:
    """Quantize after Quantize, and a LoRA between the two."""
    patched = h.with_lora(source, lora)
    direct = h.state(_quantize(patched, "fp8")[0])
    first = _quantize(patched, "int4_g128")[0]
    second, report = _quantize(first, "fp8")
    yield {"fact": "again", "bits": h.same(h.state(second), direct), "text": report.text()}
    between = h.with_lora(_quantize(source, "int4_g128")[0], lora)
    third, _ = _quantize(between, "fp8")
    yield {"fact": "between", "bits": h.same(h.state(third), direct)}
    plain, report = _quantize(first, "none")
    yield {"fact": "back to none", "quantized": report.quantized, "live": len(plain.patches)}


def _refusals(h: Any, source: Any) -> Iterator[dict[str, Any]]:
    """A model without a factory, damaged weights, an interrupt."""
    import comfy.model_management

    from fusequant.engine.errors import Refused

    orphan = source.clone()
    orphan.cached_patcher_init = None
    broken = source.clone()
    nan = torch.full((3 * 256, 256), float("nan"))
    broken.patches = {f"diffusion_model.{LAYER}.weight": [(1.0, ("diff", (nan,)), 1.0, None, None)]}
    for fact, patcher, more in (
        ("no factory", orphan, {}),
        ("damaged", broken, {"on_failure": "refuse"}),
        ("unknown scheme", source, {}),
    ):
        scheme = "fp9" if fact == "unknown scheme" else "int8"
        try:
            _quantize(patcher, scheme, **more)
            yield {"fact": fact, "kind": None}
        except Refused as refused:
            yield {"fact": fact, "kind": refused.kind, "text": str(refused)}
    made, report = _quantize(broken, "int8")
    yield {"fact": "full precision", "warnings": report.warnings, "quantized": report.quantized,
           "live": list(made.patches)}  # fmt: skip
    comfy.model_management.interrupt_current_processing()
    try:
        _quantize(source, "int8")
        yield {"fact": "interrupt", "raised": None}
    except comfy.model_management.InterruptProcessingException as stopped:
        yield {"fact": "interrupt", "raised": type(stopped).__name__}


def _backends(h: Any, source: Any, folder: str) -> Iterator[dict[str, Any]]:
    """A forced backend runs every layer through our layouts; the file stays the host's own."""
    import comfy.sd

    for scheme in CORE:
        plain, forced = (
            _quantize(source, scheme)[0],
            _quantize(source, scheme, backend="reference")[0],
        )
        path = f"{folder}/forced.safetensors"
        comfy.sd.save_checkpoint(path, forced)
        again = comfy.sd.load_diffusion_model(path)
        layouts = {str(module.weight._layout_cls) for module in forced.model.modules()
                   if hasattr(getattr(module, "weight", None), "_layout_cls")}  # fmt: skip
        yield {
            "fact": "forced", "scheme": scheme, "layouts": sorted(layouts),
            "bits": h.same(h.state(forced), h.state(plain)),
            "difference": h.error(h.output(forced), h.output(plain)),
            "stock": h.error(h.output(again), h.output(plain)),
        }  # fmt: skip
    _, report = _quantize(source, "fp8-sgl")
    yield {"fact": "implied", "warnings": report.warnings}
    try:
        _quantize(source, "int8", backend="nobody")
        yield {"fact": "no backend", "kind": None}
    except _refused() as refused:
        yield {"fact": "no backend", "kind": refused.kind}


def _refused() -> type[Exception]:
    from fusequant.engine.errors import Refused

    return Refused


def _compiled(source: Any) -> Iterator[dict[str, Any]]:
    """A compiled block gives the same numbers without a graph break."""
    for scheme in ("int8", *OWN):
        made, _ = _quantize(source, scheme)
        block = made.model.diffusion_model.double_blocks[0].img_mlp
        x = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            compiled = torch.compile(block, backend="aot_eager", fullgraph=scheme != "int8")
            yield {
                "fact": "compiled",
                "scheme": scheme,
                "equal": torch.equal(compiled(x), block(x)),
            }
