"""A family and sizes -> how far the reference transformer is from ComfyUI's on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

HEIGHT, WIDTH = 6, 10


def _flux(model: Any, latent: Any, inputs: Any) -> Any:
    return model(latent, inputs.timestep, inputs.txt, inputs.vector, inputs.guidance)


def _wan(model: Any, latent: Any, inputs: Any) -> Any:
    return model(latent[:, :, None], 1000 * inputs.timestep, inputs.txt)[:, :, 0]


def _qwen(model: Any, latent: Any, inputs: Any) -> Any:
    return model(latent[:, :, None], inputs.timestep, inputs.txt)[:, :, 0]


CALLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "FluxConfig": _flux,
    "WanConfig": _wan,
    "QwenConfig": _qwen,
}


def run(kind: str, **sizes: Any) -> dict[str, Any]:
    """Compare one forward pass of both in float32; also what core takes the weights for."""
    import comfy.ldm.flux.model
    import comfy.ldm.qwen_image.model
    import comfy.ldm.wan.model
    import comfy.model_detection
    import comfy.ops
    import einops
    import torch

    from fusequant.engine.measure.config import FluxConfig
    from fusequant.engine.measure.qwen import QwenConfig
    from fusequant.engine.measure.references import call, make_inputs
    from fusequant.engine.measure.synthetic import make_weights
    from fusequant.engine.measure.wan import WanConfig

    networks = {
        FluxConfig: comfy.ldm.flux.model.Flux,
        WanConfig: comfy.ldm.wan.model.WanModel,
        QwenConfig: comfy.ldm.qwen_image.model.QwenImageTransformer2DModel,
    }
    config_type = next(found for found in networks if found.__name__ == kind)
    config = config_type(**sizes)
    weights = {key: weight.float() for key, weight in make_weights(config, 1).items()}
    detected = comfy.model_detection.model_config_from_unet(weights, "")
    found = comfy.model_detection.detect_unet_config(weights, "")
    if kind == "QwenConfig":  # core takes every Qwen-Image for the full width
        found["num_attention_heads"] = config.hidden // 128
    model = networks[config_type](
        **found,
        operations=comfy.ops.disable_weight_init,
        dtype=torch.float32,
    )
    model.load_state_dict(detected.process_unet_state_dict(dict(weights)), strict=True)
    inputs = make_inputs(config, (HEIGHT, WIDTH), 24, seed=3, timesteps=(0.7, 0.3))
    if kind == "WanConfig":  # channels come first in a patch that goes in, last in what comes out
        inner, outer = "c p q", "p q c"
    else:
        inner = outer = "c p q"
    image = "b (h w) ({}) -> b c (h p) (w q)"
    sizes_of = {"h": HEIGHT, "w": WIDTH, "p": 2, "q": 2}
    latent = einops.rearrange(inputs.img, image.format(inner), **sizes_of)
    with torch.inference_mode():
        theirs = CALLS[kind](model, latent, inputs)
        ours = einops.rearrange(call(config, weights, inputs), image.format(outer), **sizes_of)
    return {
        "class": type(detected).__name__,
        "difference": float((ours - theirs).norm() / theirs.norm()),
        "output_rms": float(theirs.pow(2).mean().sqrt()),
    }
