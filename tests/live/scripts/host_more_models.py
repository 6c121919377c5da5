"""Models beyond the first ones in ComfyUI: loaded as stored and to int8, quantized, run once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


# model: latent, and the conditioning of one call
INPUTS = {
    "flux2": ((1, 128, 8, 8), {"c_crossattn": (1, 16, 128), "guidance": torch.tensor([4.0])}),
    "chroma": ((1, 16, 4, 4), {"c_crossattn": (1, 4, 4096), "guidance": torch.tensor([0.0])}),
    "z_image": ((1, 16, 4, 4), {"c_crossattn": (1, 4, 2560), "num_tokens": 4}),
    "sd35": ((1, 16, 16, 16), {"c_crossattn": (1, 16, 128), "y": (1, 64)}),
    "ltx": ((1, 128, 2, 4, 4), {
        "c_crossattn": (1, 16, 128), "frame_rate": 25, "attention_mask": None}),
    "hunyuan_15": ((1, 32, 2, 8, 8), {
        "c_crossattn": (1, 16, 128), "c_concat": (1, 33, 2, 8, 8), "guidance": torch.tensor([6.0]),
        "txt_byt5": (1, 4, 1472), "clip_fea": (1, 4, 1152)}),
}  # fmt: skip
WIDE = ("chroma", "z_image")  # half a minute for each call on one core
# what Quantize Model leaves as it is, here only to save minutes
KEEP = {"z_image": ("*refiner*",)}


def run(model: str, path: str, spelled: str | None = None) -> Iterator[dict[str, Any]]:
    """A tiny file; `spelled`: the same model under names that core does not read."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield from _model(model, path, spelled)


def output(model: str, patcher: Any) -> torch.Tensor:
    """One call on fixed inputs."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([patcher])
    latent, given = INPUTS[model]
    more = {name: _noise(*x) if isinstance(x, tuple) else x for name, x in given.items()}
    return patcher.model.apply_model(_noise(*latent), torch.tensor([0.7]), **more).float()


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative Frobenius distance."""
    return float((found - wanted).norm() / wanted.norm())


def codes(patcher: Any) -> dict[str, torch.Tensor]:
    """The stored tensors of the quantized layers."""
    state = dict(patcher.model.diffusion_model.state_dict())
    layers = [key.removesuffix("comfy_quant") for key in state if key.endswith("comfy_quant")]
    return {key: t for key, t in state.items() if any(key == f"{x}weight" for x in layers)}


def _model(model: str, path: str, spelled: str | None) -> Iterator[dict[str, Any]]:
    import comfy.sd

    from fusequant.host.load import load_diffusion_model
    from fusequant.host.model import quantize_model
    from fusequant.host.pristine import Request

    stored, report = load_diffusion_model(path)
    reference = output(model, stored)
    config = stored.model.model_config
    yield {
        "fact": "stored", "class": type(config).__name__, "family": report.family,
        "finite": bool(reference.isfinite().all()), "size": float(reference.norm()),
        "notes": report.notes, "settings": config.unet_config.get("causal_temporal_positioning"),
    }  # fmt: skip
    if spelled:
        again, report = load_diffusion_model(spelled)
        yield {"fact": "spelled", "same": torch.equal(output(model, again), reference),
               "family": report.family, "warnings": report.warnings}  # fmt: skip
        del again
    del stored
    loaded, report = load_diffusion_model(path, "int8")
    first = codes(loaded)
    yield {
        "fact": "int8", "layers": report.quantized, "family": report.family,
        "error": error(output(model, loaded), reference), "warnings": report.warnings,
        "settings": loaded.model.model_config.unet_config.get("causal_temporal_positioning"),
    }  # fmt: skip
    del loaded
    made, report = quantize_model(
        comfy.sd.load_diffusion_model(path), Request("int8", keep=KEEP.get(model, ()))
    )
    second = codes(made)
    yield {
        "fact": "quantized", "layers": report.quantized, "family": report.family,
        "error": None if model in WIDE else error(output(model, made), reference),
        "bits": bool(second) and all(torch.equal(first[k].int(), second[k].int()) for k in second),
        "settings": made.model.model_config.unet_config.get("causal_temporal_positioning"),
    }  # fmt: skip
