"""The transformer that Z-Image and Lumina 2 share: names, rows and rules out."""

from __future__ import annotations

from ..family import Rule, Shapes
from . import _keep
from ._spelling import Place, Table, renames, stacked

STACKS = ("layers", "context_refiner", "noise_refiner", "siglip_refiner")


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


# Diffusers' names of Z-Image; LoRA files may use them for Lumina 2 too
Z_IMAGE: Table = {
    **{name: place for stack in STACKS for name, place in _attention(stack).items()},
    **renames(
        {"linear": "linear", "adaLN_modulation.1": "adaLN_modulation.1"},
        "all_final_layer.2-1.*",
        "final_layer.*",
    ),
    "all_x_embedder.2-1": Place("x_embedder"),
}


def qkv_rows(shapes: Shapes, key: str, of: int) -> list[int]:
    """Rows of q, k and v in a joined weight; Lumina 2 has fewer key heads than query heads."""
    out = shapes.get(key.replace(".qkv.", ".out."))
    total = shapes[key][0]
    queries = out[1] if out else total // of
    rest = (total - queries) // 2
    return [queries, rest, rest]


BLOCKS_ONLY = (
    Rule(
        r"(?:x|cap|t|siglip)_embedder.*|clip_text_pooled_proj.*|time_text_embed.*",
        "embedder: small, and every block reads its output",
    ),
    Rule(r"final_layer\..*", "final layer: its error goes straight into the latent"),
    Rule(r"dec_net\..*", "pixel decoder: its error goes straight into the picture"),
    _keep.only(
        rf"(?:{'|'.join(STACKS)})\.\d+\."
        r"(?:attention\.(?:qkv|out)|feed_forward\.w[123]|adaLN_modulation\.\d+)",
        "outside the blocks' attention and feed-forward linears",
    ),
)
