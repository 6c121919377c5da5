"""One job on a large FLUX-shaped model inside ComfyUI, in its own process, with what it took."""

from __future__ import annotations

import contextlib
import statistics
import time
from itertools import pairwise
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


def cached_start(model: str, lora: str, scheme: str, rounds: int) -> dict[str, Any]:
    """From Queue to the first call of the model, the recipe being in the cache; the yardstick is
    reading the cached file once. Both in turns, first with all files in the page cache, then with
    none; `page_in_s` is every byte of the quantized weights through the map that they lie in.
    """
    from fusequant.engine.measure.disk import drop_from_cache, read_through

    entry = Path(_start(model, lora, scheme)["entry"])  # made here, where it is not there yet
    first = _start(model, lora, scheme)
    found: dict[str, list[dict[str, float]]] = {"warm": [], "cold": []}
    for state, samples in found.items():
        for _ in range(rounds):
            cold = (
                [drop_from_cache(path) for path in (entry, model, lora)] if state == "cold" else []
            )
            started = _start(model, lora, scheme)
            if all(cold):
                if cold:
                    drop_from_cache(entry)
                samples.append({**started, "read_s": read_through(entry)})
    medians = {
        f"{state}_{name}": statistics.median(sample[name] for sample in samples)
        for state, samples in found.items()
        for name in ("load_s", "fuse_s", "quantize_s", "sample_s", "start_s", "page_in_s", "read_s")
    }
    return {
        "scheme": scheme, "rounds": rounds, "entry_bytes": entry.stat().st_size,
        "over_baseline_bytes": first["over_baseline_bytes"], **medians,
        "warm_ratio": medians["warm_start_s"] / medians["warm_read_s"],
        "cold_ratio": medians["cold_start_s"] / medians["cold_read_s"],
    }  # fmt: skip


def stock_start(model: str, lora: str, scheme: str) -> dict[str, Any]:
    """The same once with ComfyUI's own loader upstream, which no part of ours replaces."""
    import comfy.sd

    found = _start(model, lora, scheme, comfy.sd.load_diffusion_model)
    return {"scheme": scheme, "load_s": found["load_s"], "start_s": found["start_s"]}


class Stepping(Exception):  # noqa: N818 - raised where the first step begins
    """The model is called for the first time."""


def _start(model: str, lora: str, scheme: str, load: Any = None) -> dict[str, Any]:
    """Load FP8 DiT (or `load`), Fuse LoRA, Quantize Model, KSampler up to the first model call."""
    from fusequant.engine.measure.timing import PrivatePeak
    from fusequant.host.cached import quantize_model
    from fusequant.host.fuse_lora import fuse_loras
    from fusequant.host.load import load_diffusion_model
    from fusequant.host.lora_match import Lora
    from fusequant.host.pristine import Request

    times = [time.perf_counter()]
    with PrivatePeak() as peak:
        patcher = load(model) if load else load_diffusion_model(model)[0]
        times.append(time.perf_counter())
        patcher, _ = fuse_loras(patcher, [Lora(Path(lora), 1.0, False)], False)
        times.append(time.perf_counter())
        patcher, report = quantize_model(patcher, Request(scheme, cache="on"))
        times.append(time.perf_counter())
        times.append(_first_call(patcher))
    steps = [after - before for before, after in pairwise(times)]
    found = dict(zip(("load_s", "fuse_s", "quantize_s", "sample_s"), steps, strict=True))
    return {
        **found, "start_s": times[-1] - times[0], "page_in_s": _page_in(patcher),
        "over_baseline_bytes": peak.over_baseline_bytes,
        "entry": str(patcher.cached_patcher_init[1][1].path), "report": report.text(),
    }  # fmt: skip


def _first_call(patcher: Any) -> float:
    """The time at which KSampler calls the model for the first time; nothing is computed."""
    import comfy.model_management
    import comfy.patcher_extension
    import comfy.sample
    import torch

    called = []

    def stop(executor: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(time.perf_counter())
        raise Stepping

    sampled = patcher.clone()
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    sampled.add_wrapper_with_key(kind, "first_call", stop)
    noise, told = torch.zeros(1, 16, 128, 128), {"pooled_output": torch.zeros(1, 768)}
    condition = [[torch.zeros(1, 256, 4096), told]]
    with contextlib.suppress(Stepping):
        comfy.sample.sample(
            sampled, noise, 1, 1.0, "euler", "simple", condition, condition, noise,
            disable_pbar=True,
        )  # fmt: skip
    comfy.model_management.unload_all_models()
    return called[0]


def _page_in(patcher: Any) -> float:
    """Seconds to copy every byte of the model's tensors, 4 MB at a time."""
    import torch

    from fusequant.engine.workers import single_threaded_torch

    buffer, started = torch.empty(4 << 20, dtype=torch.uint8), time.perf_counter()
    with single_threaded_torch():  # as a file is read
        for tensor in patcher.model.diffusion_model.state_dict().values():
            flat = tensor.detach().reshape(-1).view(torch.uint8)
            for piece in flat.split(buffer.numel()):
                buffer[: piece.numel()].copy_(piece)
    return time.perf_counter() - started


def stock_lora(quantized: str, lora: str, dtype: str | None = None) -> dict[str, Any]:
    """A change of strength of ComfyUI's own LoRA loader on a quantized model, or one of `dtype`."""
    import comfy.model_management
    import comfy.sd
    import comfy.utils
    import torch

    options = {"dtype": getattr(torch, dtype)} if dtype else {}
    patcher = comfy.sd.load_diffusion_model(quantized, model_options=options)
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


def fused_lora(model: str, lora: str, scheme: str) -> dict[str, Any]:
    """A strength fused and quantized into the cache, another one, and the first again from it."""
    import comfy.model_management

    from fusequant.host.cached import quantize_model
    from fusequant.host.fuse_lora import fuse_loras
    from fusequant.host.load import load_diffusion_model
    from fusequant.host.lora_match import Lora
    from fusequant.host.pristine import Request

    patcher, seconds = load_diffusion_model(model)[0], []
    for strength in (1.0, 0.7, 1.0):
        started = time.perf_counter()
        fused, _ = fuse_loras(patcher, [Lora(Path(lora), strength, False)], False)
        found, _ = quantize_model(fused, Request(scheme, cache="on"))
        comfy.model_management.load_models_gpu([found])
        seconds.append(time.perf_counter() - started)
    return {"first_s": seconds[0], "change_s": seconds[1], "again_s": seconds[2]}


JOBS = {
    "quantize": quantize,
    "cached_start": cached_start,
    "stock_start": stock_start,
    "stock_lora": stock_lora,
    "live_lora": live_lora,
    "fused_lora": fused_lora,
}
