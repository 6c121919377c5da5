"""Names of autoencoders -> the shapes of ComfyUI's own classes at the smallest sizes it detects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def run() -> Iterator[dict[str, Any]]:
    """One line for each: its name, its tensors' shapes, its file's header."""
    for name, build in (("video", _video), ("flux2", _flux2), ("ltx", _ltx)):
        for variant, module, header in build():
            shapes = {key: list(tensor.shape) for key, tensor in module.state_dict().items()}
            yield {"name": variant or name, "shapes": shapes, "header": header}


def _video() -> Iterator[tuple[str, Any, dict[str, str]]]:
    """The tiny autoencoder of videos by its latent channels."""
    from comfy.taesd.taehv import TAEHV

    for name, channels in (("wan", 16), ("wan22", 48), ("hunyuan15", 32)):
        yield name, TAEHV(latent_channels=channels), {}


def _flux2() -> Iterator[tuple[str, Any, dict[str, str]]]:
    """FLUX.2's: ComfyUI lets the decoder's width vary, the encoder's not."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    encoder = {"double_z": True, "z_channels": 32, "resolution": 256, "in_channels": 3,
               "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2,
               "attn_resolutions": [], "dropout": 0.0, "batch_norm_latent": True}  # fmt: skip
    decoder = {**encoder, "ch": 32}
    yield "", AutoencoderKL(ddconfig=encoder, embed_dim=32, decoder_ddconfig=decoder), {}


def _ltx() -> Iterator[tuple[str, Any, dict[str, str]]]:
    """LTX-Video's, narrow: its blocks stand in the file's header."""
    import json

    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    blocks = [["res_x", 1], ["compress_all", 1], ["compress_all", 1], ["compress_all", 1]]
    config = {"_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3,
              "out_channels": 3, "latent_channels": 128, "blocks": blocks, "scaling_factor": 1.0,
              "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
              "use_quant_conv": False, "causal_decoder": False, "encoder_base_channels": 32,
              "decoder_base_channels": 32}  # fmt: skip
    yield "", VideoVAE(config=config), {"config": json.dumps({"vae": config})}
