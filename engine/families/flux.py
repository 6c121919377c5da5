"""FLUX.1 (dev, schnell, Krea, Kontext, Fill, Depth, Canny) and what is built like it: FAMILY out.

Core's names are Black Forest Labs' own.
"""

from __future__ import annotations

from ..family import Family
from . import _flux_blocks as blocks
from ._spelling import Sign, called_by, converted_by, known_by

FAMILY = Family(
    name="flux",
    title="FLUX.1",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign(
            "core",
            all_of=("img_in.weight",),
            any_of=blocks.KEY_NORM,
            none_of=(
                "double_stream_modulation_img.lin.weight",  # FLUX.2
                "distilled_guidance_layer.in_proj.weight",  # Chroma
            ),
        ),
        Sign(
            "diffusers",
            all_of=(
                "x_embedder.weight",
                "context_embedder.weight",
                "norm_out.linear.weight",
                "transformer_blocks.0.norm1_context.linear.weight",
                "transformer_blocks.0.attn.to_q.weight",
            ),
        ),
    ),
    to_core=converted_by(blocks.FLUX1),
    aliases=called_by(blocks.FLUX1, blocks.GATED, blocks.LINEAR1_QKV, rows=blocks.linear1_rows),
    keep=(blocks.IN_PROJECTIONS, blocks.EMBEDDERS, *blocks.BLOCKS_ONLY),
)
