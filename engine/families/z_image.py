"""Z-Image (turbo, base, omni): FAMILY out. Core joins q, k, v; Diffusers has them apart."""

from __future__ import annotations

from ..family import Family, Rule
from . import _next_dit
from ._spelling import Sign, called_by, converted_by, known_by

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
    to_core=converted_by(_next_dit.Z_IMAGE),
    aliases=called_by(_next_dit.Z_IMAGE, rows=_next_dit.qkv_rows),
    keep=(
        Rule(
            r".*adaLN_modulation\.\d+", "modulation: 2 % of the weights, and it steers all tokens"
        ),
        *_next_dit.BLOCKS_ONLY,
    ),
)
