"""Wan 2.1 and 2.2 (T2V, I2V, TI2V, VACE, Animate, ...): FAMILY out. Core's names are Wan's own."""

from __future__ import annotations

from ..family import Family, Rule, Shapes, Target
from ..layer import Layer
from . import _keep, _spelling
from ._spelling import Place, renames

_ATTENTION = {
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
    "add_k_proj": "k_img",
    "add_v_proj": "v_img",
    "norm_added_k": "norm_k_img",
}
_BLOCK = {
    **{f"attn1.{spelled}": f"self_attn.{core}" for spelled, core in _ATTENTION.items()},
    **{f"attn2.{spelled}": f"cross_attn.{core}" for spelled, core in _ATTENTION.items()},
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",  # Diffusers counts the norms in the order of use
    "norm3": "norm2",
    "scale_shift_table": "modulation",
}
_DIFFUSERS = {
    **renames(_BLOCK, "blocks.{}.*", "blocks.{}.*"),
    **renames(
        _BLOCK | {"proj_in": "before_proj", "proj_out": "after_proj"},
        "vace_blocks.{}.*",
        "vace_blocks.{}.*",
    ),
    **renames(
        {
            "text_embedder.linear_1": "text_embedding.0",
            "text_embedder.linear_2": "text_embedding.2",
            "time_embedder.linear_1": "time_embedding.0",
            "time_embedder.linear_2": "time_embedding.2",
            "time_proj": "time_projection.1",
            "image_embedder.norm1": "img_emb.proj.0",
            "image_embedder.ff.net.0.proj": "img_emb.proj.1",
            "image_embedder.ff.net.2": "img_emb.proj.3",
            "image_embedder.norm2": "img_emb.proj.4",
            "image_embedder.pos_embed": "img_emb.emb_pos",
        },
        "condition_embedder.*",
    ),
    **renames({"proj_out": "head.head", "scale_shift_table": "head.modulation"}),
}


def spelling(shapes: Shapes) -> str | None:
    """`core` by the head's modulation, `diffusers` by its condition embedder."""
    if "head.modulation" in shapes and "blocks.0.self_attn.q.weight" in shapes:
        return "core"
    needs = (
        "condition_embedder.time_proj.weight",
        "blocks.0.attn1.to_q.weight",
        "scale_shift_table",
    )
    return "diffusers" if all(name in shapes for name in needs) else None


def to_core(layers: tuple[Layer, ...], spelled: str) -> tuple[Layer, ...]:
    """Diffusers' Wan under core's names: renamed only, nothing is joined."""
    if spelled == "core":
        return layers

    def place(module: str) -> Place | None:
        return _spelling.find(_DIFFUSERS, module)

    return tuple(_spelling.convert(layers, place))


def aliases(shapes: Shapes) -> dict[str, Target]:
    """Diffusers' names; those that both spellings use for different things are Wan's own."""
    found = _spelling.targets(_DIFFUSERS, shapes)
    own = {_spelling.split_leaf(key)[0] for key in shapes}
    return {name: target for name, target in found.items() if name not in own}


_QUANTIZED = (
    r"(?:vace_)?blocks\.\d+\.(?:self_attn\.[qkvo]|cross_attn\.(?:[qkvo]|k_img|v_img)|ffn\.[02])"
)
FAMILY = Family(
    name="wan",
    title="Wan 2.1 and 2.2",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=spelling,
    to_core=to_core,
    aliases=aliases,
    keep=(
        Rule(r"text_embedding\..*", "text embedder: small, and every block reads its output"),
        Rule(r"time_(?:embedding|projection)\..*", "time embedder: it steers every token"),
        Rule(r"img_emb\..*", "image embedder: small, and every block reads its output"),
        Rule(r"head\..*", "final layer: its error goes straight into the latent"),
        Rule(r"vace_blocks\.\d+\.(?:before|after)_proj", "joins the control branch to the model"),
        _keep.only(_QUANTIZED, "outside the blocks' attention and feed-forward linears"),
    ),
)
