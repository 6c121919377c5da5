"""LTX-2 (2.0 to 2.5): video and sound in one model: FAMILY out. Core's names are Lightricks' own.

Diffusers keeps the text connectors apart: its transformer folder alone is no whole model for core.
"""

from __future__ import annotations

from ..family import Family
from . import _ltx
from ._spelling import Sign, called_by, converted_by, known_by, renames

_ATTENTIONS = (
    "attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn",
)  # fmt: skip
_DIFFUSERS = {
    **_ltx.norms(*_ATTENTIONS),
    **_ltx.modulations(
        {
            "time_embed": "adaln_single",
            "audio_time_embed": "audio_adaln_single",
            "prompt_adaln": "prompt_adaln_single",
            "audio_prompt_adaln": "audio_prompt_adaln_single",
            "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
            "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
            "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
            "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
        }
    ),
    **renames(
        {
            "video_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_video",
            "audio_a2v_cross_attn_scale_shift_table": "scale_shift_table_a2v_ca_audio",
        },
        _ltx.BLOCK + "*",
        _ltx.BLOCK + "*",
    ),
    **renames({"proj_in": "patchify_proj", "audio_proj_in": "audio_patchify_proj"}),
}

FAMILY = Family(
    name="ltx2",
    title="LTX-2",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign(
            "core",
            all_of=(
                "audio_adaln_single.linear.weight",
                "audio_patchify_proj.weight",
                "transformer_blocks.0.audio_attn1.to_q.weight",
            ),
        ),
        Sign(
            "diffusers",
            all_of=(
                "audio_time_embed.linear.weight",
                "audio_proj_in.weight",
                "transformer_blocks.0.audio_attn1.to_q.weight",
            ),
        ),
    ),
    to_core=converted_by(_DIFFUSERS),
    aliases=called_by(_DIFFUSERS),
    keep=_ltx.KEEP,
)
