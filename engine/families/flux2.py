"""FLUX.2 (dev, klein 4B and 9B): FAMILY out. Core's names are Black Forest Labs' own.

One modulation serves all blocks of a kind, so the three of them stay: 2 to 4 % of the weights.
"""

from __future__ import annotations

from ..family import Family, Rule
from . import _flux_blocks as blocks
from ._spelling import Sign, called_by, converted_by, known_by, renames, sides

_MODULATIONS = (
    "double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation",
)  # fmt: skip
_EMBEDDERS = {
    "time_guidance_embed.timestep_embedder": "time_in",
    "time_guidance_embed.guidance_embedder": "guidance_in",
}
_DIFFUSERS = {
    **blocks.ATTENTION,
    **blocks.GATED,
    **blocks.FINAL,
    **blocks.INPUTS,
    **renames({f"{name}.linear": f"{name}.lin" for name in _MODULATIONS}),
    **sides(_EMBEDDERS, blocks.SIDES),
}
# LoRA files may use FLUX.1's names; its MLP of a single block is another one
_FLUX1 = {name: place for name, place in blocks.FLUX1.items() if not name.endswith("proj_mlp")}

FAMILY = Family(
    name="flux2",
    title="FLUX.2",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign(
            "core",
            all_of=("double_stream_modulation_img.lin.weight", "img_in.weight"),
            any_of=blocks.KEY_NORM,
        ),
        Sign(
            "diffusers",
            all_of=(
                "double_stream_modulation_img.linear.weight",
                "x_embedder.weight",
                "single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight",
            ),
        ),
    ),
    to_core=converted_by(_DIFFUSERS),
    aliases=called_by(_FLUX1, _DIFFUSERS, blocks.LINEAR1_QKV, rows=blocks.linear1_rows),
    keep=(
        blocks.IN_PROJECTIONS,
        blocks.EMBEDDERS,
        Rule(
            r"(?:double|single)_stream_modulation\w*\.lin",
            "modulation: one for all blocks, so its error reaches every layer",
        ),
        *blocks.BLOCKS_ONLY,
    ),
)
