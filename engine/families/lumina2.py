"""Lumina Image 2.0 and NewBie: FAMILY out. Core's names are the authors'; Diffusers has others.

Modulation is a tenth of the model, so it is quantized like FLUX's.
"""

from __future__ import annotations

from ..family import Family
from . import _keep, _next_dit
from ._spelling import Place, Sign, called_by, converted_by, known_by, renames, sides, stacked

_PARTS = {
    "attn.to_out.0": "attention.out",
    "attn.norm_q": "attention.q_norm",
    "attn.norm_k": "attention.k_norm",
    "feed_forward.linear_1": "feed_forward.w1",
    "feed_forward.linear_2": "feed_forward.w2",
    "feed_forward.linear_3": "feed_forward.w3",
    "norm2": "attention_norm2",
}
_MODULATED = {"norm1.linear": "adaLN_modulation.1", "norm1.norm": "attention_norm1"}


def _stack(name: str, norm: dict[str, str]) -> dict[str, Place]:
    block = name + ".{}."
    return {
        **stacked([f"{block}attn.to_{x}" for x in "qkv"], f"{block}attention.qkv"),
        **renames(_PARTS | norm, block + "*", block + "*"),
    }


_DIFFUSERS = {
    **_stack("layers", _MODULATED),
    **_stack("noise_refiner", _MODULATED),
    **_stack("context_refiner", {"norm1": "attention_norm1"}),
    **renames({"0": "0", "1": "1"}, "time_caption_embed.caption_embedder.*", "cap_embedder.*"),
    **sides({"time_caption_embed.timestep_embedder": "t_embedder"}, ("mlp.0", "mlp.2")),
    "norm_out.linear_1": Place("final_layer.adaLN_modulation.1"),
    "norm_out.linear_2": Place("final_layer.linear"),
}

FAMILY = Family(
    name="lumina2",
    title="Lumina Image 2",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign(
            "core",
            all_of=(
                "cap_embedder.1.weight",
                "noise_refiner.0.attention.qkv.weight",
                "noise_refiner.0.adaLN_modulation.1.weight",
            ),
        ),
        Sign(
            "diffusers",
            all_of=(
                "time_caption_embed.caption_embedder.1.weight",
                "noise_refiner.0.attn.to_q.weight",
                "noise_refiner.0.norm1.linear.weight",
                "norm_out.linear_2.weight",
            ),
            none_of=("image_index_embedding",),  # OmniGen 2
        ),
    ),
    to_core=converted_by(_DIFFUSERS),
    aliases=called_by(_DIFFUSERS, _next_dit.Z_IMAGE, rows=_next_dit.qkv_rows),
    keep=(_keep.modulation(r".*adaLN_modulation\.\d+"), *_next_dit.BLOCKS_ONLY),
)
