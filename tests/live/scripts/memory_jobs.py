"""One job inside ComfyUI on the CPU, in its own process: private memory predicted and measured."""

from __future__ import annotations

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
    import comfy.sd
    import comfy.utils
    import torch

    from fusequant.host import memory
    from fusequant.host.load import load_diffusion_model
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    load = comfy.sd.load_diffusion_model if loader == "stock" else load_diffusion_model
    found = load(model)
    patcher = found[0] if isinstance(found, tuple) else found
    if scheme != "none":
        patcher = quantize_model(patcher, Request(scheme, cache="off"))[0]
    if lora:
        tensors = comfy.utils.load_torch_file(lora, safe_load=True)
        patcher = comfy.sd.load_lora_for_models(patcher, None, tensors, 1.0, 0.0)[0]
    managed, _ = memory.manage(patcher, memory.asked("auto", None, None))
    width, pooled = CONDITIONING[family]
    told = {"guidance": 4.0} | ({"pooled_output": torch.randn(1, pooled)} if pooled else {})
    condition = [[torch.randn(1, text, width), told]]
    noise = torch.randn(latent)
    comfy.sample.sample(
        managed, noise, 1, cfg, "euler", "simple", condition, condition, torch.zeros_like(noise),
        disable_pbar=True,
    )  # fmt: skip
    return _row(memory.measured(managed).runs[-1])


def _row(run: Any) -> dict[str, Any]:
    held = run.parts["held before"]
    return {
        "parts": run.parts,
        "predicted_bytes": run.predicted_bytes,
        "peak_bytes": run.peak_bytes,
        "error": run.predicted_bytes / run.peak_bytes - 1,
        "over_held_error": (run.predicted_bytes - held) / (run.peak_bytes - held) - 1,
    }


JOBS = {"sample": sample}
