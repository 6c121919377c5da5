"""The blocks that FLUX, Chroma and HunyuanVideo share: other names and rules out.

Core's names are Black Forest Labs' own. Diffusers has q, k and v apart, and the two halves of the
last modulation the other way round.
"""

from __future__ import annotations

from ..family import Rule, Shapes
from . import _keep, _spelling
from ._spelling import Place, Table, renames, sides, stacked

DOUBLE, SINGLE = "transformer_blocks.{}.", "single_transformer_blocks.{}."
_CORE_DOUBLE, _CORE_SINGLE = "double_blocks.{}.*", "single_blocks.{}.*"
SIDES = ("in_layer", "out_layer")  # of a two-layer embedder in core

ATTENTION: Table = {
    **stacked([f"{DOUBLE}attn.to_{x}" for x in "qkv"], "double_blocks.{}.img_attn.qkv"),
    **stacked([f"{DOUBLE}attn.add_{x}_proj" for x in "qkv"], "double_blocks.{}.txt_attn.qkv"),
    **renames(
        {
            "attn.to_out.0": "img_attn.proj",
            "attn.to_add_out": "txt_attn.proj",
            "attn.norm_q": "img_attn.norm.query_norm",
            "attn.norm_k": "img_attn.norm.key_norm",
            "attn.norm_added_q": "txt_attn.norm.query_norm",
            "attn.norm_added_k": "txt_attn.norm.key_norm",
        },
        DOUBLE + "*",
        _CORE_DOUBLE,
    ),
    **renames(
        {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"},
        SINGLE + "*",
        _CORE_SINGLE,
    ),
}
# FLUX.1, Chroma and HunyuanVideo: gelu, and the single block's MLP beside its q, k and v
GELU: Table = {
    **renames(
        {
            "ff.net.0.proj": "img_mlp.0",
            "ff.net.2": "img_mlp.2",
            "ff_context.net.0.proj": "txt_mlp.0",
            "ff_context.net.2": "txt_mlp.2",
        },
        DOUBLE + "*",
        _CORE_DOUBLE,
    ),
    **stacked(
        [*(f"{SINGLE}attn.to_{x}" for x in "qkv"), f"{SINGLE}proj_mlp"], "single_blocks.{}.linear1"
    ),
    f"{SINGLE}proj_out": Place("single_blocks.{}.linear2"),
}
# FLUX.2: gated, and one linear for all that a single block reads; LyCORIS uses the same names
GATED: Table = {
    **renames(
        {
            "ff.linear_in": "img_mlp.0",
            "ff.linear_out": "img_mlp.2",
            "ff_context.linear_in": "txt_mlp.0",
            "ff_context.linear_out": "txt_mlp.2",
        },
        DOUBLE + "*",
        _CORE_DOUBLE,
    ),
    **renames(
        {"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"}, SINGLE + "*", _CORE_SINGLE
    ),
}
MODULATION: Table = {
    f"{DOUBLE}norm1.linear": Place("double_blocks.{}.img_mod.lin"),
    f"{DOUBLE}norm1_context.linear": Place("double_blocks.{}.txt_mod.lin"),
    f"{SINGLE}norm.linear": Place("single_blocks.{}.modulation.lin"),
}
FINAL: Table = {
    "proj_out": Place("final_layer.linear"),
    "norm_out.linear": Place("final_layer.adaLN_modulation.1", swapped=True),
}
INPUTS: Table = renames({"x_embedder": "img_in", "context_embedder": "txt_in"})
FLUX1: Table = {
    **ATTENTION,
    **GELU,
    **MODULATION,
    **FINAL,
    **INPUTS,
    **sides(
        {
            "time_text_embed.timestep_embedder": "time_in",
            "time_text_embed.text_embedder": "vector_in",
            "time_text_embed.guidance_embedder": "guidance_in",
        },
        SIDES,
    ),
}
# what LoRA files call the q, k and v rows of a single block
LINEAR1_QKV: Table = {"single_blocks.{}.linear1_qkv": Place("single_blocks.{}.linear1", 0, 2)}


def linear1_rows(shapes: Shapes, key: str, of: int) -> list[int]:
    """Rows of the parts of a joined weight (n, hidden): q, k, v, and in `linear1` the MLP."""
    rows, hidden = shapes[key]
    by_parts = {2: [3 * hidden, rows - 3 * hidden], 4: [*[hidden] * 3, rows - 3 * hidden]}
    return by_parts.get(of) or _spelling.even_rows(shapes, key, of)


KEY_NORM = tuple(f"double_blocks.0.img_attn.norm.key_norm.{x}" for x in ("weight", "scale"))
_LINEARS = (
    r"double_blocks\.\d+\.(?:img|txt)_(?:attn\.(?:qkv|proj)|mlp\.(?:0|2|\w+_proj)|mod\.lin)"
    r"|single_blocks\.\d+\.(?:linear1|linear2|modulation\.lin)"
)
IN_PROJECTIONS = Rule(r"(?:img|txt)_in", "input projection: small, and every token passes it")
EMBEDDERS = Rule(
    r"(?:time|time_r|vector|guidance)_in\..*", "embedder: small, and it steers every block"
)
BLOCKS_ONLY = (
    Rule(r"final_layer\..*", "final layer: its error goes straight into the latent"),
    _keep.modulation(r".*(?:_mod|modulation)\.lin"),
    _keep.only(_LINEARS, "outside the blocks' attention, MLP and modulation linears"),
)
