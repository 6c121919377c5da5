"""Shapes of what no recorded header has: ComfyUI's own classes at the smallest sizes it detects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def run() -> Iterator[dict[str, Any]]:
    """One line for each: its name, its tensors' shapes, its file's header."""
    for name, build in (("video", _video), ("flux2", _flux2), ("qwen3-vl", _qwen3_vl)):
        for variant, module, header in build():
            shapes = {key: list(tensor.shape) for key, tensor in module.state_dict().items()}
            yield {"name": variant or name, "shapes": shapes, "header": header}


def _video() -> Iterator[tuple[str, Any, dict[str, str]]]:
    """Wan's, which may be narrow; the tiny autoencoder of videos, by its latent channels."""
    from comfy.ldm.wan.vae import WanVAE
    from comfy.taesd.taehv import TAEHV

    yield "wan", WanVAE(
        dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True], image_channels=3, conv_out_channels=3, dropout=0.0,
    ), {}  # fmt: skip
    for name, channels in (("wan22", 48), ("hunyuan15", 32)):
        yield name, TAEHV(latent_channels=channels), {}


def _flux2() -> Iterator[tuple[str, Any, dict[str, str]]]:
    """FLUX.2's: ComfyUI lets the decoder's width vary, the encoder's not."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    encoder = {"double_z": True, "z_channels": 32, "resolution": 256, "in_channels": 3,
               "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2,
               "attn_resolutions": [], "dropout": 0.0, "batch_norm_latent": True}  # fmt: skip
    decoder = {**encoder, "ch": 32}
    yield "", AutoencoderKL(ddconfig=encoder, embed_dim=32, decoder_ddconfig=decoder), {}


def _qwen3_vl() -> Iterator[tuple[str, Any, dict[str, str]]]:
    """Qwen3-VL 4B with the sizes of the test server; in a file its parts have longer names."""
    import torch
    from comfy.ops import manual_cast
    from comfy.text_encoders import qwen3vl
    from torch import nn

    sizes = load_sizes()
    qwen3vl.QWEN3VL_VISION["qwen3vl_4b"] = sizes.QWEN3_VISION
    qwen3vl.QWEN3VL_VISION_COMMON.update(sizes.QWEN3_VISION_COMMON)
    build = qwen3vl._make_qwen3vl_model("qwen3vl_4b")
    config = dict(sizes.ENCODERS["qwen3vl_4b_model_config"])
    made = build(config, torch.bfloat16, "cpu", manual_cast)
    whole = nn.Module()
    whole.model = nn.Module()
    whole.model.language_model, whole.model.visual = made.model, made.visual
    yield "", whole, {}


def load_sizes() -> Any:
    """The sizes beside, without the pack around them."""
    import runpy
    from pathlib import Path
    from types import SimpleNamespace

    path = Path(__file__).resolve().parents[1] / "small_sizes" / "sizes.py"
    return SimpleNamespace(**runpy.run_path(str(path)))
