"""One job inside ComfyUI on the CPU, in its own process: private memory predicted and measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CONDITIONING = {"flux": (128, 768), "flux-like": (4096, 768), "wan": (4096, 0), "qwen": (3584, 0)}


def run(job: str, **options: Any) -> dict[str, Any]:
    """The name of a job below and its options -> bytes."""
    import torch

    with torch.inference_mode():
        return JOBS[job](**options)


def sample(
    model: str, family: str, latent: list[int], text: int, scheme: str = "none",
    loader: str = "ours", cfg: float = 1.0, lora: str = "",
) -> dict[str, Any]:  # fmt: skip
    """One step as KSampler makes it, under the VRAM Manager, which predicts and measures."""
    import comfy.sample
    import torch

    from fusequant.host import memory
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    patcher = LOADERS[loader](model)
    if scheme != "none":
        patcher = quantize_model(patcher, Request(scheme, cache="off"))[0]
    patcher = _with_lora(patcher, lora)
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
    return {"parts": last.parts} | _row(
        last.predicted_bytes, last.peak_bytes, last.parts["held before"]
    )


def load(model: str, loader: str = "ours") -> dict[str, Any]:
    """A loader alone: ours keeps weights in the map of their file."""
    return _over_held(lambda: LOADERS[loader](model), lambda made: 0)


def quantize(model: str, scheme: str, cache: str, user: str, lora: str = "") -> dict[str, Any]:
    """Quantize Model, in memory or into an empty cache; what its report says is the prediction."""
    import folder_paths

    from fusequant.host.cached import quantize_model
    from fusequant.host.pristine import Request

    folder_paths.set_user_directory(user)
    patcher = _with_lora(_ours(model), lora)
    asked = Request(scheme, cache=cache)
    return _over_held(lambda: quantize_model(patcher, asked), lambda made: made[1].memory_bytes)


def _over_held(work: Callable[[], Any], told: Callable[[Any], int]) -> dict[str, Any]:
    from fusequant.engine.measure.timing import PrivatePeak

    with PrivatePeak() as peak:
        made = work()
    held = peak.baseline_bytes
    return _row(held + told(made), peak.peak_bytes, held)


def _row(predicted: int, peak: int, held: int) -> dict[str, Any]:
    return {
        "held_bytes": held,
        "predicted_bytes": predicted,
        "peak_bytes": peak,
        "error": predicted / peak - 1,
        "error_over_held": (predicted - held) / (peak - held) - 1,
    }


def _ours(model: str) -> Any:
    from fusequant.host.load import load_diffusion_model

    return load_diffusion_model(model)[0]


def _stock(model: str) -> Any:
    import comfy.sd

    return comfy.sd.load_diffusion_model(model)


def _with_lora(patcher: Any, lora: str) -> Any:
    import comfy.sd
    import comfy.utils

    if not lora:
        return patcher
    tensors = comfy.utils.load_torch_file(lora, safe_load=True)
    return comfy.sd.load_lora_for_models(patcher, None, tensors, 1.0, 0.0)[0]


LOADERS = {"ours": _ours, "stock": _stock}
JOBS = {"sample": sample, "load": load, "quantize": quantize}
