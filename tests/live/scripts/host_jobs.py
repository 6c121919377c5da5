"""One job on a large FLUX-shaped model inside ComfyUI, in its own process, with what it took."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


def run(job: str, **options: Any) -> dict[str, Any]:
    """The name of a job below and its options -> seconds and private bytes."""
    import folder_paths
    import torch

    folder_paths.set_user_directory(options.pop("user"))
    with torch.inference_mode():
        return {"job": job, **JOBS[job](**options)}


def quantize(model: str, scheme: str, cache: str) -> dict[str, Any]:
    """Quantize Model on a loaded bf16 model: private memory over what the loaded model holds."""
    import comfy.sd

    from fusequant.engine.measure.timing import PrivatePeak
    from fusequant.host.cached import quantize_model
    from fusequant.host.pristine import Request

    upstream = comfy.sd.load_diffusion_model(model)
    started = time.perf_counter()
    with PrivatePeak() as peak:
        _, report = quantize_model(upstream, Request(scheme, cache=cache))
        seconds = time.perf_counter() - started
    return {
        "scheme": scheme,
        "cache": cache,
        "seconds": seconds,
        "over_baseline_bytes": peak.over_baseline_bytes,
        "baseline_bytes": peak.baseline_bytes,
        "report": report.text(),
    }


def read_file(model: str) -> dict[str, Any]:
    """Every byte of a file once, as a loader must: the yardstick."""
    from fusequant.engine.measure.disk import read_through

    first = read_through(model)
    return {"first_s": first, "again_s": read_through(model)}


def cached_start(model: str, scheme: str) -> dict[str, Any]:
    """From a model to one that is ready for its first step, the recipe being in the cache."""
    import comfy.model_management

    from fusequant.host.cached import quantize_model
    from fusequant.host.load import load_diffusion_model
    from fusequant.host.pristine import Request

    started = time.perf_counter()
    upstream, _ = load_diffusion_model(model)
    loaded = time.perf_counter()
    patcher, report = quantize_model(upstream, Request(scheme, cache="on"))
    quantized = time.perf_counter()
    comfy.model_management.load_models_gpu([patcher])
    ready = time.perf_counter()
    return {
        "scheme": scheme,
        "load_s": loaded - started,
        "quantize_s": quantized - loaded,
        "stage_s": ready - quantized,
        "queue_to_step_s": ready - started,
        "report": report.text(),
    }


def stock_lora(quantized: str, lora: str) -> dict[str, Any]:
    """A change of strength of ComfyUI's own LoRA loader on a quantized model."""
    import comfy.model_management
    import comfy.sd
    import comfy.utils

    patcher = comfy.sd.load_diffusion_model(quantized)
    weights = comfy.utils.load_torch_file(lora, safe_load=True)
    seconds = []
    for strength in (1.0, 0.7):
        started = time.perf_counter()
        found, _ = comfy.sd.load_lora_for_models(patcher, None, weights, strength, 0.0)
        comfy.model_management.load_models_gpu([found])
        seconds.append(time.perf_counter() - started)
    return {"first_s": seconds[0], "change_s": seconds[1]}


def live_lora(quantized: str, lora: str) -> dict[str, Any]:
    """A change of strength of Live LoRA on the same model."""
    import comfy.model_management
    import comfy.sd

    from fusequant.host.live_lora import add_live_loras
    from fusequant.host.lora import Lora

    patcher = comfy.sd.load_diffusion_model(quantized)
    seconds = []
    for strength in (1.0, 0.7, 0.4):
        started = time.perf_counter()
        found, _ = add_live_loras(patcher, [Lora(Path(lora), strength, False)])
        comfy.model_management.load_models_gpu([found])
        seconds.append(time.perf_counter() - started)
    return {"first_s": seconds[0], "change_s": seconds[1], "again_s": seconds[2]}


JOBS = {
    "quantize": quantize,
    "read_file": read_file,
    "cached_start": cached_start,
    "stock_lora": stock_lora,
    "live_lora": live_lora,
}
