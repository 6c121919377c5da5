"""HunyuanVideo 1 and 1.5: FAMILY out. Core's names, Tencent's own, and those with q, k, v apart.

Core opens Tencent's names too. Version 1.5 and LightX2V's files hold q, k and v as three layers.
"""

from __future__ import annotations

from ..family import Family, Rule, Shapes, Target
from ..layer import Layer
from . import _keep, _spelling, flux
from ._spelling import Place, renames, stacked

_REFINER = "txt_in.individual_token_refiner.blocks.{}."
_DOUBLE, _SINGLE = "double_blocks.{}.", "single_blocks.{}."


def _stream(block: str, attention: str, mlp: str) -> dict[str, Place]:
    """The attention and MLP of one stream of a block, fused or with q, k, v apart."""
    spelled, core = f"{block}{attention}", f"{block}{attention}"
    return {
        **stacked([f"{spelled}_{x}" for x in "qkv"], f"{core}.qkv"),
        f"{spelled}_qkv": Place(f"{core}.qkv"),
        f"{spelled}_proj": Place(f"{core}.proj"),
        f"{spelled}_q_norm": Place(f"{core}.norm.query_norm"),
        f"{spelled}_k_norm": Place(f"{core}.norm.key_norm"),
        f"{block}{mlp}.fc1": Place(f"{block}{mlp}.0"),
        f"{block}{mlp}.fc2": Place(f"{block}{mlp}.2"),
    }


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
    **{
        f"{module}.mlp.{number}": Place(f"{module}.{side}_layer")
        for module in ("time_in", "time_r_in", "guidance_in", "vector_in", "txt_in.t_embedder")
        for number, side in ((0, "in"), (2, "out"))
    },
    "txt_in.c_embedder.linear_1": Place("txt_in.c_embedder.in_layer"),
    "txt_in.c_embedder.linear_2": Place("txt_in.c_embedder.out_layer"),
}
_SPELLINGS = (
    ("core", "double_blocks.0.img_attn.qkv.weight"),
    ("tencent", "double_blocks.0.img_attn_qkv.weight"),
    ("split", "double_blocks.0.img_attn_q.weight"),
)


def spelling(shapes: Shapes) -> str | None:
    """`core`, `tencent` (q, k, v joined too) or `split` (apart) by block 0's image attention."""
    if not any(name.startswith("txt_in.individual_token_refiner.") for name in shapes):
        return None
    return next((name for name, sign in _SPELLINGS if sign in shapes), None)


def to_core(layers: tuple[Layer, ...], spelled: str) -> tuple[Layer, ...]:
    """Tencent's and LightX2V's names as core's; q, k and v joined where they are apart."""
    if spelled == "core":
        return layers

    def place(module: str) -> Place | None:
        return _spelling.find(_TENCENT, module)

    return tuple(_spelling.convert(layers, place))


def aliases(shapes: Shapes) -> dict[str, Target]:
    """Tencent's names (diffusion-pipe LoRAs), the split ones, and Diffusers' for the blocks."""
    return _spelling.targets({**_TENCENT, **flux.BLOCKS}, shapes, flux.linear1_rows)


_QUANTIZED = (
    r"double_blocks\.\d+\.(?:img|txt)_(?:attn\.(?:qkv|proj)|mlp\.[02]|mod\.lin)"
    r"|single_blocks\.\d+\.(?:linear1|linear2|modulation\.lin)"
)
FAMILY = Family(
    name="hunyuan_video",
    title="HunyuanVideo",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=spelling,
    to_core=to_core,
    aliases=aliases,
    keep=(
        Rule(r"txt_in\..*", "text refiner: two blocks that every text token passes"),
        Rule(
            r"(?:time|time_r|vector|guidance)_in\..*", "embedder: small, and it steers every block"
        ),
        Rule(r"(?:byt5|vision)_in\..*|cond_type_embedding", "condition input: small, read by all"),
        Rule(r"final_layer\..*", "final layer: its error goes straight into the latent"),
        _keep.modulation(r".*(?:_mod|modulation)\.lin"),
        _keep.only(_QUANTIZED, "outside the blocks' attention, MLP and modulation linears"),
    ),
)
