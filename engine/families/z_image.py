"""Z-Image (turbo, base, omni): FAMILY out. Core joins q, k, v; Diffusers has them apart."""

from __future__ import annotations

from ..family import Family, Rule
from . import _next_dit
from ._spelling import Place, Sign, called_by, converted_by, known_by, renames, stacked


def _attention(stack: str) -> dict[str, Place]:
    attention = stack + ".{}.attention."
    return {
        **stacked([f"{attention}to_{x}" for x in "qkv"], f"{attention}qkv"),
        **renames(
            {"to_out.0": "out", "norm_q": "q_norm", "norm_k": "k_norm"},
            attention + "*",
            attention + "*",
        ),
    }


_DIFFUSERS = {
    **{name: place for stack in _next_dit.STACKS for name, place in _attention(stack).items()},
    **renames(
        {"linear": "linear", "adaLN_modulation.1": "adaLN_modulation.1"},
        "all_final_layer.2-1.*",
        "final_layer.*",
    ),
    "all_x_embedder.2-1": Place("x_embedder"),
}

FAMILY = Family(
    name="z_image",
    title="Z-Image",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign(
            "core",
            all_of=("cap_embedder.1.weight", "noise_refiner.0.attention.qkv.weight"),
            none_of=("noise_refiner.0.adaLN_modulation.1.weight",),  # Lumina 2
        ),
        Sign(
            "diffusers",
            all_of=("cap_embedder.1.weight", "noise_refiner.0.attention.to_q.weight"),
        ),
    ),
    to_core=converted_by(_DIFFUSERS),
    aliases=called_by(_DIFFUSERS, rows=_next_dit.qkv_rows),
    keep=(
        Rule(
            r".*adaLN_modulation\.\d+", "modulation: 2 % of the weights, and it steers all tokens"
        ),
        *_next_dit.BLOCKS_ONLY,
    ),
)
