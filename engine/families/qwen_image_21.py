"""Qwen-Image 2.1, one stream of 32 blocks: FAMILY out. ComfyUI opens it from versions after 0.33.

Core joins the gate and the input of each MLP; in Diffusers they are two layers. What stays is what
the published 8-bit file keeps.
"""

from __future__ import annotations

from ..family import Family, Rule
from . import _keep
from ._spelling import Sign, called_by, converted_by, known_by, stacked

_MLP = "transformer_blocks.{}.img_mlp."
_DIFFUSERS = stacked([f"{_MLP}gate_layer", f"{_MLP}proj"], f"{_MLP}gate_up")
_TEXT = "txt_in.text_norm.weight"
_LINEARS = r"transformer_blocks\.\d+\.(?:attn\.to_(?:[qkv]|out\.0)|img_mlp\.(?:gate_up|out))"

FAMILY = Family(
    name="qwen_image_21",
    title="Qwen-Image 2.1",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign("core", all_of=(_TEXT, "transformer_blocks.0.img_mlp.gate_up.weight")),
        Sign("diffusers", all_of=(_TEXT, "transformer_blocks.0.img_mlp.gate_layer.weight")),
    ),
    to_core=converted_by(_DIFFUSERS),
    aliases=called_by(_DIFFUSERS),
    keep=(
        Rule(r"img_in|txt_in\..*", "input projection: small, and every token passes it"),
        Rule(r"time_text_embed\..*", "embedder: small, and it steers every block"),
        Rule(r"modulation\.1", "modulation: one for all blocks, so its error reaches every layer"),
        Rule(r"norm_out\..*|proj_out", "final layer: its error goes straight into the latent"),
        _keep.only(_LINEARS, "outside the blocks' attention and MLP linears"),
    ),
)
