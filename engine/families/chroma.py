"""Chroma and Chroma Radiance (pixels instead of latents): FAMILY out. Core's names are FLUX's.

A small network computes every block's modulation; it and Radiance's pixel decoder stay.
"""

from __future__ import annotations

from ..family import Family, Rule
from . import _flux_blocks as blocks
from ._spelling import Place, Sign, called_by, converted_by, known_by, sides

_GUIDANCE = "distilled_guidance_layer.layers.{}"
_DIFFUSERS = {
    **blocks.ATTENTION,
    **blocks.GELU,
    **blocks.INPUTS,
    **sides({_GUIDANCE: _GUIDANCE}, blocks.SIDES),
    "proj_out": Place("final_layer.linear"),
}

FAMILY = Family(
    name="chroma",
    title="Chroma",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign(
            "core",
            all_of=("distilled_guidance_layer.in_proj.weight",),
            any_of=blocks.KEY_NORM,
        ),
        Sign(
            "diffusers",
            all_of=(
                "distilled_guidance_layer.in_proj.weight",
                "x_embedder.weight",
                "transformer_blocks.0.attn.to_q.weight",
            ),
        ),
    ),
    to_core=converted_by(_DIFFUSERS),
    aliases=called_by(_DIFFUSERS, blocks.GATED, blocks.LINEAR1_QKV, rows=blocks.linear1_rows),
    keep=(
        blocks.IN_PROJECTIONS,
        Rule(
            r"distilled_guidance_layer\..*",
            "guidance network: the modulation of every block comes from it",
        ),
        Rule(r"nerf_.*", "pixel decoder: its error goes straight into the picture"),
        *blocks.BLOCKS_ONLY,
    ),
)
