"""Wan 2.1 and 2.2 (T2V, I2V, TI2V, VACE, Fun, Animate, S2V, ...): FAMILY out.

Core's names are Wan's own.
"""

from __future__ import annotations

from ..family import Family, Rule
from . import _keep
from ._spelling import Place, Sign, called_by, converted_by, known_by, renames, sides, stacked

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
_EMBEDDERS = {
    "condition_embedder.text_embedder": "text_embedding",
    "condition_embedder.time_embedder": "time_embedding",
}
_IMAGE = {
    "norm1": "proj.0",
    "ff.net.0.proj": "proj.1",
    "ff.net.2": "proj.3",
    "norm2": "proj.4",
    "pos_embed": "emb_pos",
}


def _as_map(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(channels) -> (1, channels, 1, 1)."""
    return (1, *shape, 1, 1)


_CONVS = "motion_encoder.enc.net_app.convs."
_RESIDUAL = {  # of one block of the motion encoder; core has a blur before two of the convolutions
    "conv1": ("conv1.0", None),
    "conv1.act_fn": ("conv1.1", _as_map),
    "conv2": ("conv2.1", None),
    "conv2.act_fn": ("conv2.2", _as_map),
    "conv_skip": ("skip.1", None),
}
_FACE = "face_adapter.fuser_blocks.{}."
_ANIMATE = {
    "motion_encoder.conv_in": Place(f"{_CONVS}0.0"),
    "motion_encoder.conv_in.act_fn": Place(f"{_CONVS}0.1", seen_as=_as_map),
    "motion_encoder.conv_out": Place(f"{_CONVS}8"),
    "motion_encoder.motion_synthesis_weight": Place("motion_encoder.dec.direction", leaf=".weight"),
    "motion_encoder.motion_network.{}": Place("motion_encoder.enc.fc.{}"),
    **{
        f"motion_encoder.res_blocks.{i}.{name}": Place(f"{_CONVS}{i + 1}.{core}", seen_as=shape)
        for i in range(7)
        for name, (core, shape) in _RESIDUAL.items()
    },
    **stacked(["face_adapter.{}.to_k", "face_adapter.{}.to_v"], f"{_FACE}linear1_kv"),
    **renames(
        {"to_q": "linear1_q", "to_out": "linear2", "norm_q": "q_norm", "norm_k": "k_norm"},
        "face_adapter.{}.*",
        f"{_FACE}*",
    ),
    **renames({x: f"{x}.conv" for x in ("conv1_local", "conv2", "conv3")}, *["face_encoder.*"] * 2),
}
_DIFFUSERS = {
    **renames(_BLOCK, "blocks.{}.*", "blocks.{}.*"),
    **renames(
        _BLOCK | {"proj_in": "before_proj", "proj_out": "after_proj"},
        "vace_blocks.{}.*",
        "vace_blocks.{}.*",
    ),
    **sides(_EMBEDDERS, ("0", "2")),
    **renames(_IMAGE, "condition_embedder.image_embedder.*", "img_emb.*"),
    "condition_embedder.time_proj": Place("time_projection.1"),
    **renames({"proj_out": "head.head", "scale_shift_table": "head.modulation"}),
    **_ANIMATE,
}

_LINEARS = (
    r"(?:vace_)?blocks\.\d+\.(?:self_attn\.[qkvo]|cross_attn\.(?:[qkvo]|k_img|v_img)|ffn\.[02])"
)
FAMILY = Family(
    name="wan",
    title="Wan 2.1 and 2.2",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign("core", all_of=("head.modulation", "blocks.0.self_attn.q.weight")),
        Sign(
            "diffusers",
            all_of=(
                "condition_embedder.time_proj.weight",
                "blocks.0.attn1.to_q.weight",
                "scale_shift_table",
            ),
        ),
    ),
    to_core=converted_by(_DIFFUSERS),
    aliases=called_by(_DIFFUSERS),
    keep=(
        Rule(r"text_embedding\..*", "text embedder: small, and every block reads its output"),
        Rule(r"time_(?:embedding|projection)\..*", "time embedder: it steers every token"),
        Rule(r"img_emb(?:_\w+)?\..*", "image embedder: small, and every block reads its output"),
        Rule(r"head(?:_\w+)?\..*", "final layer: its error goes straight into the latent"),
        Rule(r"vace_blocks\.\d+\.(?:before|after)_proj", "joins the control branch to the model"),
        Rule(r"(?:face|motion)_\w+\..*", "face branch: it carries the likeness and the expression"),
        Rule(
            r"(?:audio|music|casual_audio)_\w+\..*|trainable_cond_mask",
            "sound branch: it moves the lips and the body",
        ),
        _keep.only(_LINEARS, "outside the blocks' attention and feed-forward linears"),
    ),
)
