"""Calibrate FP8 inside ComfyUI on a tiny FLUX: facts."""

from __future__ import annotations

import importlib.util
import json
import sys
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


class StoppedError(Exception):
    """Raised in the middle of sampling."""


def run(model: str, lora: str, folder: str) -> Iterator[dict[str, Any]]:
    """The file of a FLUX, a LoRA for it and a folder to write in -> facts."""
    import comfy.sd
    import folder_paths

    from fusequant.host.calibrate import calibrate
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    folder_paths.set_user_directory(folder)
    folder_paths.set_output_directory(folder)
    torch.set_num_threads(1)
    h = _models()
    objects = h.host_objects()
    source = comfy.sd.load_diffusion_model(model)
    fp8, _ = quantize_model(source, Request("fp8", keep=("single_blocks.0.linear2",)))
    bits, state = h.state(fp8), torch.get_rng_state()
    made, report = calibrate(fp8, *_asked(2))
    kept = bool(torch.equal(state, torch.get_rng_state()))
    yield {
        "fact": "scales", "text": report.text(), "expected": _expected(fp8),
        "found": _scales(made), "upstream": _scales(fp8), "rng": kept,
        "same_bits": h.same(bits, h.state(fp8)), "hooks": [_hooks(fp8), _hooks(made)],
    }  # fmt: skip
    yield from _kept(h, made, folder)
    yield from _errors(fp8)
    yield from _percentile(fp8)
    yield from _before(h, source, model, lora, folder)
    changed = [n for n, found in h.host_objects().items() if objects.get(n, found) != found]
    yield {"fact": "untouched", "changed": changed}


def _asked(prompts: int) -> tuple[Any, Any, Any, Any]:
    """Conditionings, no negative, a latent and two steps."""
    from fusequant.host.calibrate import Sampling

    generator = torch.Generator().manual_seed(0)
    positive = [
        [
            torch.randn((1, 8, 128), generator=generator),
            {"pooled_output": torch.randn((1, 768), generator=generator), "guidance": 4.0},
        ]
        for _ in range(prompts)
    ]
    return positive, None, {"samples": torch.zeros(1, 16, 8, 8)}, Sampling(steps=2)


def _scales(patcher: Any) -> dict[str, float]:
    """The input scale of every layer that has one."""
    found = {}
    for name, module in patcher.model.diffusion_model.named_modules():
        scale = getattr(module, "input_scale", None)
        if scale is not None:
            found[name] = float(scale)
    return found


def _hooks(patcher: Any) -> int:
    return sum(len(module._forward_pre_hooks) for module in patcher.model.modules())


def _expected(patcher: Any) -> dict[str, float]:
    """The largest input of each layer over the same sampling, by hooks of this test's own."""
    import comfy.sample

    positive, _, latent, sampling = _asked(2)
    largest: dict[str, float] = {}
    hooks = []

    def watch(name: str, module: Any) -> None:
        def see(_: Any, inputs: Any) -> None:
            largest[name] = max(largest.get(name, 0.0), float(inputs[0].float().abs().max()))

        hooks.append(module.register_forward_pre_hook(see))

    for name, module in patcher.model.diffusion_model.named_modules():
        if hasattr(module, "in_features"):
            watch(name, module)
    for number, prompt in enumerate(positive):
        noise = comfy.sample.prepare_noise(latent["samples"], number)
        comfy.sample.sample(
            patcher, noise, sampling.steps, 1.0, "euler", "simple", [prompt], [prompt],
            latent["samples"], disable_pbar=True, seed=number,
        )  # fmt: skip
    for hook in hooks:
        hook.remove()
    return {name: 1.1 * amax / 448 for name, amax in largest.items()}


def _kept(h: Any, made: Any, folder: str) -> Iterator[dict[str, Any]]:
    """Clones, fresh copies, files and what loads them have the scales."""
    import comfy.sd

    from fusequant.host.load import load_diffusion_model
    from fusequant.host.save import save_model

    path, report = save_model(made, "diffusion_models/calibrated")
    stock = comfy.sd.load_diffusion_model(str(path))
    ours, _ = load_diffusion_model(path, backend="reference")
    copies = {
        "clone": made.clone(), "fresh": made.clone(force_deepcopy=True), "stock": stock,
        "ours": ours,
    }  # fmt: skip
    yield {
        "fact": "kept", "scales": {name: _scales(one) for name, one in copies.items()},
        "wanted": _scales(made), "stock_output": h.error(h.output(stock), h.output(made)),
        "text": report.text(),
    }  # fmt: skip


def _errors(fp8: Any) -> Iterator[dict[str, Any]]:
    """What fails or is stopped in the middle leaves nothing behind."""
    import comfy.sample

    from fusequant.engine.errors import Refused
    from fusequant.host import calibrate as module

    positive, negative, latent, sampling = _asked(1)
    found = []
    watched = []
    usual = module.host_progress

    def stopping() -> Any:
        def progress(done: int, total: int) -> None:
            watched.append(done)
            if done:
                raise StoppedError

        return progress

    module.host_progress = stopping
    try:
        module.calibrate(fp8, positive, negative, latent, sampling)
    except StoppedError:
        found.append("stopped")
    finally:
        module.host_progress = usual
    for wrong in ([], [[torch.full((1, 8, 128), float("nan")), positive[0][1]]]):
        try:
            module.calibrate(fp8, wrong, negative, latent, sampling)
        except Refused as refused:
            found.append(refused.kind)
    yield {"fact": "errors", "found": found, "hooks": _hooks(fp8), "watched": watched,
           "scales": _scales(fp8)}  # fmt: skip
    assert comfy.sample is not None


def _percentile(fp8: Any) -> Iterator[dict[str, Any]]:
    """Less than everything gives smaller scales; the margin is a factor."""
    from fusequant.host.calibrate import calibrate

    asked = _asked(1)
    whole, _ = calibrate(fp8, *asked, margin=1.0)
    most, _ = calibrate(fp8, *asked, margin=1.0, percentile=99.0)
    double, _ = calibrate(fp8, *asked, margin=2.0)
    yield {"fact": "percentile", "whole": _scales(whole), "most": _scales(most),
           "double": _scales(double)}  # fmt: skip


def _before(h: Any, source: Any, model: str, lora: str, folder: str) -> Iterator[dict[str, Any]]:
    """Calibrated before it is quantized: in memory, by the cache, with a budget."""
    from fusequant.host.cached import quantize_model
    from fusequant.host.calibrate import calibrate, save_scales
    from fusequant.host.pristine import Request, recipe_of

    made, report = calibrate(h.with_lora(source, lora), *_asked(1))
    scales = recipe_of(made).request.input_scales
    memory, _ = quantize_model(made, Request("fp8", cache="off"))
    cached, _ = quantize_model(made, Request("fp8", cache="on"))
    other, _ = quantize_model(h.with_lora(source, lora), Request("fp8", cache="on"))
    limit = int(0.6 * Path(model).stat().st_size)
    budget, told = quantize_model(made, Request("int8", cache="off", max_bytes=limit))
    file = save_scales(scales, "calibration")
    yield {
        "fact": "before", "text": report.text(), "unquantized": _scales(made), "scales": scales,
        "memory": _scales(memory), "cached": _scales(cached), "other": _scales(other),
        "fused": len(memory.patches) == 0, "budget": told.text(),
        "budget_scales": len(_scales(budget)), "file": json.loads(file.read_text()),
    }  # fmt: skip
