"""HunyuanVideo 1 and 1.5, HunyuanImage 2.1: FAMILY out.

Core's names, Tencent's own (core opens those too), and Diffusers'. Version 1.5 and LightX2V's files
hold q, k and v as three layers.
"""

from __future__ import annotations

from ..family import Family, Rule
from . import _flux_blocks as blocks
from ._spelling import Place, Sign, called_by, converted_by, known_by, renames, sides, stacked

_REFINER = "txt_in.individual_token_refiner.blocks.{}."
_DOUBLE, _SINGLE = "double_blocks.{}.", "single_blocks.{}."


def _stream(block: str, attention: str, mlp: str) -> dict[str, Place]:
    """Tencent's attention and MLP of one stream of a block, fused or with q, k, v apart."""
    module = f"{block}{attention}"
    return {
        **stacked([f"{module}_{x}" for x in "qkv"], f"{module}.qkv"),
        f"{module}_qkv": Place(f"{module}.qkv"),
        f"{module}_proj": Place(f"{module}.proj"),
        f"{module}_q_norm": Place(f"{module}.norm.query_norm"),
        f"{module}_k_norm": Place(f"{module}.norm.key_norm"),
        f"{block}{mlp}.fc1": Place(f"{block}{mlp}.0"),
        f"{block}{mlp}.fc2": Place(f"{block}{mlp}.2"),
    }


_MODULES = ("time_in", "time_r_in", "guidance_in", "vector_in", "txt_in.t_embedder")
_TENCENT = {
    **_stream(_DOUBLE, "img_attn", "img_mlp"),
    **_stream(_DOUBLE, "txt_attn", "txt_mlp"),
    **_stream(_REFINER, "self_attn", "mlp"),
    **renames(
        {"img_mod.linear": "img_mod.lin", "txt_mod.linear": "txt_mod.lin"}, *[_DOUBLE + "*"] * 2
    ),
    **renames(
        {
            "modulation.linear": "modulation.lin",
            "q_norm": "norm.query_norm",
            "k_norm": "norm.key_norm",
        },
        *[_SINGLE + "*"] * 2,
    ),
    **sides({name: name for name in _MODULES}, blocks.SIDES, ("mlp.0", "mlp.2")),
    **sides({"txt_in.c_embedder": "txt_in.c_embedder"}, blocks.SIDES),
}
_TIME, _TEXT = "time_text_embed", "context_embedder.time_text_embed"
_EMBEDDERS = {
    f"{_TIME}.timestep_embedder": "time_in",
    f"{_TIME}.guidance_embedder": "guidance_in",
    f"{_TIME}.text_embedder": "vector_in",
    "time_embed.timestep_embedder": "time_in",  # 1.5
    "time_embed.timestep_embedder_r": "time_r_in",
    "time_guidance_embed.timestep_embedder": "time_in",  # HunyuanImage
    "time_guidance_embed.timestep_embedder_r": "time_r_in",
    "time_guidance_embed.guidance_embedder": "guidance_in",
    f"{_TEXT}.timestep_embedder": "txt_in.t_embedder",
    f"{_TEXT}.text_embedder": "txt_in.c_embedder",
}
_DIFFUSERS_REFINER = "context_embedder.token_refiner.refiner_blocks.{}."
_DIFFUSERS = {
    **blocks.ATTENTION,
    **blocks.GELU,
    **blocks.MODULATION,
    **blocks.FINAL,
    **sides(_EMBEDDERS, blocks.SIDES),
    **stacked([f"{_DIFFUSERS_REFINER}attn.to_{x}" for x in "qkv"], f"{_REFINER}self_attn.qkv"),
    **renames(
        {
            "attn.to_out.0": "self_attn.proj",
            "ff.net.0.proj": "mlp.0",
            "ff.net.2": "mlp.2",
            "norm_out.linear": "adaLN_modulation.1",
            "norm1": "norm1",
            "norm2": "norm2",
        },
        _DIFFUSERS_REFINER + "*",
        _REFINER + "*",
    ),
    **renames(
        {
            "x_embedder.proj": "img_in.proj",
            "context_embedder.proj_in": "txt_in.input_embedder",
            "cond_type_embed": "cond_type_embedding",
            "context_embedder_2.norm": "byt5_in.layernorm",
            "context_embedder_2.linear_1": "byt5_in.fc1",
            "context_embedder_2.linear_2": "byt5_in.fc2",
            "context_embedder_2.linear_3": "byt5_in.fc3",
            "image_embedder.norm_in": "vision_in.proj.0",
            "image_embedder.linear_1": "vision_in.proj.1",
            "image_embedder.linear_2": "vision_in.proj.3",
            "image_embedder.norm_out": "vision_in.proj.4",
        }
    ),
}
_TOKENS = "txt_in.individual_token_refiner.blocks.0.norm1.weight"

FAMILY = Family(
    name="hunyuan_video",
    title="HunyuanVideo",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign("core", all_of=(_TOKENS, "double_blocks.0.img_attn.qkv.weight")),
        Sign("tencent", all_of=(_TOKENS, "double_blocks.0.img_attn_qkv.weight")),
        Sign("split", all_of=(_TOKENS, "double_blocks.0.img_attn_q.weight")),
        Sign(
            "diffusers",
            all_of=(
                "context_embedder.token_refiner.refiner_blocks.0.norm1.weight",
                "x_embedder.proj.weight",
                "transformer_blocks.0.attn.add_q_proj.weight",
            ),
        ),
    ),
    to_core=converted_by(_TENCENT, _DIFFUSERS),
    aliases=called_by(_TENCENT, _DIFFUSERS, rows=blocks.linear1_rows),
    keep=(
        Rule(r"txt_in\..*", "text refiner: two blocks that every text token passes"),
        blocks.EMBEDDERS,
        Rule(r"(?:byt5|vision)_in\..*|cond_type_embedding", "condition input: small, read by all"),
        *blocks.BLOCKS_ONLY,
    ),
)
