"""Load FP8 DiT inside ComfyUI: files of several dialects, and quantizing while loading."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]
LAYER = "double_blocks.0.img_attn.qkv"
SCHEMES = (
    "fp8", "fp8_row", "fp8_block128", "int8", "int8_convrot", "int4_g128", "mxfp8", "nvfp4",
    "w4a4_convrot", "w4a8",
)  # fmt: skip


def _models() -> Any:
    path = Path(__file__).with_name("host_models.py")
    spec = importlib.util.spec_from_file_location("host_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["host_models"] = module
    spec.loader.exec_module(module)
    return module


def run(flux: str, lora: str, folder: str) -> Iterator[dict[str, Any]]:
    """A FLUX file, a LoRA for it and a folder for the dialects -> facts."""
    torch.set_num_threads(1)
    h = _models()
    with torch.inference_mode():
        yield from _dialects(h, flux, Path(folder))
        yield from _quantizing(h, flux, lora)
        yield from _shards(h, flux, Path(folder) / "shards")
        yield from _refused(flux, lora, Path(folder))


def _blocks(tensors: dict[str, torch.Tensor]) -> list[str]:
    """The block matrices of a FLUX state dict."""
    return [k for k, t in tensors.items() if t.dim() == 2 and "blocks." in k]


def _spelled(dialect: str, tensors: Tensors) -> tuple[Tensors, Tensors]:
    """(the tensors as a dialect spells them, the numbers that its codes mean)."""
    from fusequant.engine.rows import all_schemes

    file, means = dict(tensors), {}
    scheme = all_schemes()[{"bare": "fp8", "legacy": "fp8"}.get(dialect, dialect)]
    for key in _blocks(tensors):
        layer = key.removesuffix(".weight")
        pieces = scheme.quantize(tensors[key].float())
        if dialect == "bare":
            pieces = {"weight": tensors[key].to(torch.float8_e4m3fn)}
        means[layer] = scheme.dequantize(pieces, {})
        file[key] = pieces["weight"]
        if "scale" in pieces:
            scale = pieces["scale"].float()
            name = "scale_weight" if dialect == "legacy" else "weight_scale"
            file[f"{layer}.{name}"] = scale if scale.dim() == 0 else scale.reshape(-1, 1)
    if dialect == "legacy":
        file["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    return file, means


def _dialects(h: Any, flux: str, folder: Path) -> Iterator[dict[str, Any]]:
    from safetensors.torch import load_file, save_file

    from fusequant.host.load import load_diffusion_model

    tensors = load_file(flux)
    reference = h.output(load_diffusion_model(flux)[0])
    for dialect in ("bare", "legacy", "fp8_row", "int8"):
        file, means = _spelled(dialect, tensors)
        path = folder / f"{dialect}.safetensors"
        save_file(file, str(path))
        model, report = load_diffusion_model(path)
        worst = max(h.error(h.weight(model, layer), wanted) for layer, wanted in means.items())
        copy = model.clone(force_deepcopy=True)
        plain, _ = load_diffusion_model(path, "none")
        yield {
            "fact": "dialect", "dialect": dialect, "worst": worst, "text": report.text(),
            "error": h.error(h.output(model), reference),
            "factory": model.cached_patcher_init[0].__name__,
            "clone": torch.equal(h.output(copy), h.output(model)),
            "none": max(h.error(h.weight(plain, x), means[x].bfloat16().float()) for x in means),
            "none_is_plain": not any("quant" in name for name in h.state(plain)),
        }  # fmt: skip


def _quantizing(h: Any, flux: str, lora: str) -> Iterator[dict[str, Any]]:
    """Quantized while loaded: the bits of Quantize Model after loading; LoRAs still go first."""
    import comfy.sd

    from fusequant.host.load import load_diffusion_model
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    source = comfy.sd.load_diffusion_model(flux)
    for scheme in SCHEMES:
        with h.Counted() as counted:
            model, report = load_diffusion_model(flux, scheme)
        made, _ = quantize_model(source, Request(scheme))
        rebuilt = model.clone(force_deepcopy=True)
        yield {
            "fact": "quantizing", "scheme": scheme, "layers": report.quantized,
            "times": sorted(set(counted.layers.values())),
            "bits": h.same(_codes(h, model), _codes(h, made)),
            "rebuilt": h.same(h.state(rebuilt), h.state(model)),
            "output": h.error(h.output(model), h.output(made)),
        }  # fmt: skip
    later, report = quantize_model(h.with_lora(model, lora), Request("int8"))
    wanted, _ = quantize_model(h.with_lora(source, lora), Request("int8"))
    yield {"fact": "fused after loading quantized", "text": report.text(),
           "bits": h.same(_codes(h, later), _codes(h, wanted))}  # fmt: skip


def _codes(h: Any, patcher: Any) -> dict[str, torch.Tensor]:
    state = h.state(patcher)
    layers = [k.removesuffix("comfy_quant") for k in state if k.endswith("comfy_quant")]
    return {k: t for k, t in state.items() if any(k.startswith(layer) for layer in layers)
            and not k.endswith("bias")}  # fmt: skip


def _shards(h: Any, flux: str, folder: Path) -> Iterator[dict[str, Any]]:
    """One model in two files."""
    import comfy.sd
    from safetensors.torch import load_file, save_file

    from fusequant.host.load import load_diffusion_model

    folder.mkdir()
    tensors = load_file(flux)
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, inside in shards.items():
        save_file({name: tensors[name] for name in inside}, str(folder / shard))
    places = {name: shard for shard, inside in shards.items() for name in inside}
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    model, _ = load_diffusion_model(folder)
    whole = comfy.sd.load_diffusion_model(flux)
    yield {"fact": "shards", "error": h.error(h.output(model), h.output(whole))}


def _refused(flux: str, lora: str, folder: Path) -> Iterator[dict[str, Any]]:
    from safetensors.torch import load_file, save_file

    from fusequant.engine.errors import Refused
    from fusequant.host.load import load_diffusion_model

    tensors = load_file(flux)
    tensors[f"{LAYER}.weight"][5, 5] = float("nan")
    damaged = folder / "damaged.safetensors"
    save_file(tensors, str(damaged))
    cases = (("lora", lora, "int8", {}), ("damaged", damaged, "int8", {"on_failure": "refuse"}),
             ("missing", folder / "nothing.safetensors", None, {}))  # fmt: skip
    for fact, path, scheme, more in cases:
        try:
            load_diffusion_model(path, scheme, **more)
            yield {"fact": fact, "kind": None}
        except Refused as refused:
            yield {"fact": fact, "kind": refused.kind}
    model, report = load_diffusion_model(damaged, "int8")
    yield {"fact": "full precision", "warnings": report.warnings, "layers": report.quantized,
           "dtype": str(model.model.diffusion_model.get_submodule(LAYER).weight.dtype)}  # fmt: skip
