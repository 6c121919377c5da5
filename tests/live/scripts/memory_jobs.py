"""Jobs inside ComfyUI on the CPU: private memory predicted and measured.

Each job has a process of its own, which begins with ComfyUI imported and nothing computed: it is
forked from this one, where torch has not started a thread.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# text width, pooled width
CONDITIONING = {"flux": (4096, 768), "wan": (4096, 0), "qwen": (3584, 0)}

IMPORTED = (
    "comfy.sample", "comfy.sd", "fusequant.host.cached", "fusequant.host.memory",
    "fusequant.host.speed",
)  # fmt: skip


def run(jobs: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """For each job (`job`, its name below, and its options) what it found, in bytes."""
    for name in IMPORTED:
        importlib.import_module(name)
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        yield from pool.imap(_done, jobs)


def _done(job: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    options = {key: value for key, value in job.items() if key != "job"}
    with torch.inference_mode():
        return JOBS[job["job"]](**options)


def sample(
    model: str, family: str, latent: list[int], text: int, scheme: str = "", loader: str = "ours",
    cfg: float = 1.0, lora: str = "", attention: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """One step as KSampler makes it, under the VRAM Manager, which predicts and measures."""
    import comfy.sample
    import torch

    from fusequant.host import memory, speed

    patcher = speed.speed_up(_with_lora(LOADERS[loader](model, scheme), lora), attention)[0]
    managed, _ = memory.manage(patcher, memory.asked("auto", None, None))
    width, pooled = CONDITIONING[family]
    told = {"guidance": 4.0} | ({"pooled_output": torch.randn(1, pooled)} if pooled else {})
    condition = [[torch.randn(1, text, width), told]]
    noise = torch.randn(latent)
    comfy.sample.sample(
        managed, noise, 1, cfg, "euler", "simple", condition, condition, torch.zeros_like(noise),
        disable_pbar=True,
    )  # fmt: skip
    last = memory.measured(managed).runs[-1]
    held = last.parts["held before"]
    return {"parts": last.parts, "text": last.text()} | _row(
        held, last.predicted_bytes - held, last.peak_bytes - held
    )


def load(model: str, scheme: str = "") -> dict[str, Any]:
    """Load FP8 DiT, which keeps weights in the map of their file or quantizes each as it comes."""
    from fusequant.host.load import load_diffusion_model

    return _made(lambda: load_diffusion_model(model, scheme or None))


def quantize(model: str, scheme: str, cache: str, user: str, lora: str = "") -> dict[str, Any]:
    """Quantize Model, in memory or into an empty cache."""
    import folder_paths

    from fusequant.host.cached import quantize_model
    from fusequant.host.pristine import Request

    folder_paths.set_user_directory(user)
    patcher = _with_lora(_ours(model), lora)
    return _made(lambda: quantize_model(patcher, Request(scheme, cache=cache)))


def _made(work: Callable[[], Any]) -> dict[str, Any]:
    """What the report of a node says, beside what VRAM Manager shows of it afterwards."""
    from fusequant.engine.measure.timing import private_bytes
    from fusequant.host import memory

    held = private_bytes()
    patcher, report = work()
    shown = memory.manage(patcher, memory.asked("auto", None, None))[1].text()
    assert report.memory_text() in shown, shown
    found = {"text": report.memory_text()}
    return found | _row(held, report.predicted["RAM"], report.measured["RAM"])


def _row(held: int, predicted: int, measured: int) -> dict[str, Any]:
    """`error` is of all private memory, `error_over_held` of what came on top, if any was told."""
    return {
        "held_bytes": held,
        "predicted_bytes": held + predicted,
        "peak_bytes": held + measured,
        "error": (held + predicted) / (held + measured) - 1,
        "error_over_held": predicted / measured - 1 if predicted else None,
    }


def _ours(model: str, scheme: str = "") -> Any:
    from fusequant.host.load import load_diffusion_model

    return load_diffusion_model(model, scheme or None)[0]


def _stock(model: str, scheme: str) -> Any:
    import comfy.sd

    return comfy.sd.load_diffusion_model(model)


def _with_lora(patcher: Any, lora: str) -> Any:
    import comfy.sd
    import comfy.utils

    if not lora:
        return patcher
    tensors = comfy.utils.load_torch_file(lora, safe_load=True)
    return comfy.sd.load_lora_for_models(patcher, None, tensors, 1.0, 0.0)[0]


def machine() -> dict[str, Any]:
    """What it runs on: of this interpreter, not of the one that asks."""
    from comfyui_version import __version__

    from fusequant.engine.measure.hardware import hardware

    return hardware() | {"comfyui": __version__}


LOADERS = {"ours": _ours, "stock": _stock}
JOBS = {"sample": sample, "load": load, "quantize": quantize, "machine": machine}
