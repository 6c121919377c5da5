"""Sizes of a FLUX -> how far the reference transformer is from ComfyUI's on the same weights."""

from __future__ import annotations

from typing import Any


def run(**sizes: Any) -> dict[str, Any]:
    """Compare one forward pass of both in float32; also what core takes the weights for."""
    import comfy.model_detection
    import comfy.ops
    import torch
    from comfy.ldm.flux.model import Flux

    from fusequant.engine.measure.config import FluxConfig
    from fusequant.engine.measure.synthetic import make_weights
    from fusequant.engine.measure.transformer import ReferenceTransformer

    torch.manual_seed(0)
    config = FluxConfig(**sizes)
    weights = {key: weight.float() for key, weight in make_weights(config, 1).items()}
    detected = comfy.model_detection.model_config_from_unet(weights, "")
    model = Flux(
        **comfy.model_detection.detect_unet_config(weights, ""),
        operations=comfy.ops.disable_weight_init,
        dtype=torch.float32,
    )
    model.load_state_dict(detected.process_unet_state_dict(dict(weights)), strict=True)
    height, width = 6, 10
    latent = torch.randn(2, 16, 2 * height, 2 * width)
    txt, vector = torch.randn(2, 24, config.context), torch.randn(2, config.vector)
    timestep, guidance = torch.tensor([0.7, 0.3]), torch.tensor([3.5, 2.0])
    img = latent.unflatten(2, (height, 2)).unflatten(4, (width, 2))
    img = img.permute(0, 2, 4, 1, 3, 5).reshape(2, height * width, 64)
    with torch.inference_mode():
        theirs = model(latent, timestep, txt, vector, guidance)
        ours = ReferenceTransformer(config, weights)(
            img, txt, vector, timestep, guidance, (height, width)
        )
    ours = ours.reshape(2, height, width, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(latent.shape)
    return {
        "class": type(detected).__name__,
        "difference": float((ours - theirs).norm() / theirs.norm()),
        "output_rms": float(theirs.pow(2).mean().sqrt()),
    }
