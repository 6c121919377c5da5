"""LTX-Video (0.9.x, 2B and 13B): FAMILY out. Core's names are Lightricks' own."""

from __future__ import annotations

from ..family import Family
from . import _ltx
from ._spelling import Place, Sign, called_by, converted_by, known_by

_DIFFUSERS = {
    **_ltx.norms("attn1", "attn2"),
    **_ltx.modulations({"time_embed": "adaln_single"}),
    "proj_in": Place("patchify_proj"),
}

FAMILY = Family(
    name="ltx_video",
    title="LTX-Video",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign(
            "core",
            all_of=(
                "patchify_proj.weight",
                "adaln_single.linear.weight",
                "transformer_blocks.0.attn1.to_q.weight",
            ),
            none_of=("audio_adaln_single.linear.weight",),  # LTX-2
        ),
        Sign(
            "diffusers",
            all_of=(
                "proj_in.weight",
                "time_embed.linear.weight",
                "time_embed.emb.timestep_embedder.linear_1.weight",
                "transformer_blocks.0.attn1.to_q.weight",
            ),
            none_of=("audio_time_embed.linear.weight",),
        ),
    ),
    to_core=converted_by(_DIFFUSERS),
    aliases=called_by(_DIFFUSERS),
    keep=_ltx.KEEP,
)
