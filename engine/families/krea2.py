"""Krea 2: FAMILY out. Core's names are the authors'; Diffusers has others.

What stays is what the published 8-bit file keeps. (FLUX.1 Krea is FLUX.1.)
"""

from __future__ import annotations

import math

from ..family import Family, Rule
from . import _keep
from ._spelling import Place, Sign, called_by, converted_by, known_by, renames

_LINEARS = {
    **{f"attn.to_{x}": f"attn.w{x}" for x in "qkv"},
    "attn.to_gate": "attn.gate",
    "attn.to_out.0": "attn.wo",
    **{f"ff.{x}": f"mlp.{x}" for x in ("gate", "up", "down")},
}
_NORMS = {
    "attn.norm_q": "attn.qknorm.qnorm",
    "attn.norm_k": "attn.qknorm.knorm",
    "norm1": "prenorm",
    "norm2": "postnorm",
}
_STACKS = {
    "transformer_blocks.{}.": "blocks.{}.",
    "text_fusion.layerwise_blocks.{}.": "txtfusion.layerwise_blocks.{}.",
    "text_fusion.refiner_blocks.{}.": "txtfusion.refiner_blocks.{}.",
}


def _norms(names: dict[str, str], inside: str, target: str) -> dict[str, Place]:
    """Norms, whose parameter core calls `scale`."""
    return {inside + name: Place(target + core, leaf=".scale") for name, core in names.items()}


_DIFFUSERS = {
    name: place
    for spelled, core in _STACKS.items()
    for name, place in {
        **renames(_LINEARS, spelled + "*", core + "*"),
        **_norms(_NORMS, spelled, core),
    }.items()
} | {
    **renames(
        {
            "img_in": "first",
            "time_embed.linear_1": "tmlp.0",
            "time_embed.linear_2": "tmlp.2",
            "time_mod_proj": "tproj.1",
            "txt_in.linear_1": "txtmlp.1",
            "txt_in.linear_2": "txtmlp.3",
            "text_fusion.projector": "txtfusion.projector",
            "final_layer.linear": "last.linear",
            "final_layer.scale_shift_table": "last.modulation.lin",
        }
    ),
    **_norms({"txt_in.norm": "txtmlp.0", "final_layer.norm": "last.norm"}, "", ""),
    "transformer_blocks.{}.scale_shift_table": Place(
        "blocks.{}.mod.lin", seen_as=lambda shape: (math.prod(shape),)
    ),
}
# some LoRA files leave out the last number
_SHORT = {f"{spelled}attn.to_out": Place(f"{core}attn.wo") for spelled, core in _STACKS.items()}

FAMILY = Family(
    name="krea2",
    title="Krea 2",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign("core", all_of=("txtfusion.projector.weight", "blocks.0.attn.wq.weight")),
        Sign(
            "diffusers",
            all_of=("text_fusion.projector.weight", "transformer_blocks.0.attn.to_gate.weight"),
        ),
    ),
    to_core=converted_by(_DIFFUSERS),
    aliases=called_by(_DIFFUSERS, _SHORT),
    keep=(
        Rule(r"first", "input projection: small, and every token passes it"),
        Rule(r"txtfusion\..*", "text fusion: four blocks that every text token passes"),
        Rule(r"txtmlp\..*", "text embedder: small, and every block reads its output"),
        Rule(r"tmlp\..*|tproj\..*", "modulation: one for all blocks, so its error reaches all"),
        Rule(r"last\..*", "final layer: its error goes straight into the latent"),
        _keep.only(
            r"blocks\.\d+\.(?:attn\.(?:w[qkvo]|gate)|mlp\.(?:gate|up|down))",
            "outside the blocks' attention and MLP linears",
        ),
    ),
)
