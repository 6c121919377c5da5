"""Qwen-Image and Qwen-Image-Edit (to 2512 and 2511, Layered): FAMILY out.

Core's names are Diffusers'. Mage-Flow has the same layers and is taken for it.
"""

from __future__ import annotations

from ..family import Family, Rule
from . import _keep
from ._spelling import Sign, known_by

_LINEARS = (
    r"transformer_blocks\.\d+\."
    r"(?:attn\.(?:to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
    r"|(?:img|txt)_mlp\.net\.(?:0\.proj|2)|(?:img|txt)_mod\.1)"
)
FAMILY = Family(
    name="qwen_image",
    title="Qwen-Image",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign(
            "core",
            all_of=(
                "txt_norm.weight",
                "img_in.weight",
                "transformer_blocks.0.attn.add_k_proj.weight",
                "transformer_blocks.0.img_mod.1.weight",
            ),
            none_of=("controlnet_blocks.0.weight",),
        )
    ),
    keep=(
        Rule(r"(?:img|txt)_in", "input projection: small, and every token passes it"),
        Rule(r"time_text_embed\..*", "embedder: small, and it steers every block"),
        Rule(r"norm_out\..*|proj_out", "final layer: its error goes straight into the latent"),
        _keep.modulation(r".*_mod\.1"),
        _keep.only(_LINEARS, "outside the blocks' attention, MLP and modulation linears"),
    ),
)
