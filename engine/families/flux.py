"""FLUX.1 (dev, schnell, Fill, Kontext, Depth, Canny) and what is built like it: FAMILY out.

Core's names are Black Forest Labs' own. The Diffusers spelling has q, k and v apart, and the two
halves of the last modulation the other way round.
"""

from __future__ import annotations

from ..family import Family, Rule, Shapes, Target
from ..layer import Layer
from . import _keep, _spelling
from ._spelling import Place, renames, stacked

_DOUBLE, _SINGLE = "transformer_blocks.{}.", "single_transformer_blocks.{}."
_EMBEDDERS = {
    "time_in": "time_text_embed.timestep_embedder",
    "vector_in": "time_text_embed.text_embedder",
    "guidance_in": "time_text_embed.guidance_embedder",
}

# the block names of Diffusers' FLUX, which HunyuanVideo shares
BLOCKS = {
    **stacked([f"{_DOUBLE}attn.to_{x}" for x in "qkv"], "double_blocks.{}.img_attn.qkv"),
    **stacked([f"{_DOUBLE}attn.add_{x}_proj" for x in "qkv"], "double_blocks.{}.txt_attn.qkv"),
    **renames(
        {
            "attn.to_out.0": "img_attn.proj",
            "attn.to_add_out": "txt_attn.proj",
            "attn.norm_q": "img_attn.norm.query_norm",
            "attn.norm_k": "img_attn.norm.key_norm",
            "attn.norm_added_q": "txt_attn.norm.query_norm",
            "attn.norm_added_k": "txt_attn.norm.key_norm",
            "norm1.linear": "img_mod.lin",
            "norm1_context.linear": "txt_mod.lin",
            "ff.net.0.proj": "img_mlp.0",
            "ff.net.2": "img_mlp.2",
            "ff_context.net.0.proj": "txt_mlp.0",
            "ff_context.net.2": "txt_mlp.2",
        },
        _DOUBLE + "*",
        "double_blocks.{}.*",
    ),
    **stacked(
        [*(f"{_SINGLE}attn.to_{x}" for x in "qkv"), f"{_SINGLE}proj_mlp"],
        "single_blocks.{}.linear1",
    ),
    **renames(
        {
            "proj_out": "linear2",
            "norm.linear": "modulation.lin",
            "attn.norm_q": "norm.query_norm",
            "attn.norm_k": "norm.key_norm",
        },
        _SINGLE + "*",
        "single_blocks.{}.*",
    ),
}
_DIFFUSERS = {
    **BLOCKS,
    **renames(
        {"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear"}
    ),
    **{
        f"{spelled}.linear_{number}": Place(f"{core}.{side}_layer")
        for core, spelled in _EMBEDDERS.items()
        for number, side in ((1, "in"), (2, "out"))
    },
    "norm_out.linear": Place("final_layer.adaLN_modulation.1", swapped=True),
}
# names that only LoRA files use: LyCORIS' feed-forward, Diffusers' FLUX.2
_LORA_ONLY = {
    **renames(
        {
            "ff.linear_in": "img_mlp.0",
            "ff.linear_out": "img_mlp.2",
            "ff_context.linear_in": "txt_mlp.0",
            "ff_context.linear_out": "txt_mlp.2",
        },
        _DOUBLE + "*",
        "double_blocks.{}.*",
    ),
    **renames(
        {"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"},
        _SINGLE + "*",
        "single_blocks.{}.*",
    ),
}


def spelling(shapes: Shapes) -> str | None:
    """`core` by the double blocks' q and k norms, `diffusers` by the two kinds of blocks."""
    norm = "double_blocks.0.img_attn.norm.key_norm"
    # HunyuanVideo has the same blocks and a text refiner; Chroma Radiance has no img_in
    if f"{norm}.scale" in shapes or f"{norm}.weight" in shapes:
        inputs = ("img_in.weight", "img_in_patch.weight", "distilled_guidance_layer.norms.0.scale")
        return "core" if any(name in shapes for name in inputs) else None
    needs = ("x_embedder.weight", "context_embedder.weight", "norm_out.linear.weight")
    blocks = (
        "transformer_blocks.0.norm1_context.linear.weight",
        "transformer_blocks.0.attn.to_q.weight",
    )
    return "diffusers" if all(name in shapes for name in (*needs, *blocks)) else None


def to_core(layers: tuple[Layer, ...], spelled: str) -> tuple[Layer, ...]:
    """Diffusers' FLUX under core's names; q, k, v (and the single blocks' MLP) are joined."""
    if spelled == "core":
        return layers

    def place(module: str) -> Place | None:
        return _spelling.find(_DIFFUSERS, module)

    return tuple(_spelling.convert(layers, place))


def linear1_rows(shapes: Shapes, key: str, of: int) -> list[int]:
    """Rows of the parts of a joined weight (n, hidden): q, k, v, and in `linear1` the MLP."""
    if of < 4:
        return _spelling.even_rows(shapes, key, of)
    rows, hidden = shapes[key]
    return [hidden, hidden, hidden, rows - 3 * hidden]


def aliases(shapes: Shapes) -> dict[str, Target]:
    """Diffusers' names, LyCORIS' and the q, k, v half of `linear1` as LoRA files call it."""
    found = _spelling.targets({**_DIFFUSERS, **_LORA_ONLY}, shapes, linear1_rows)
    for key in shapes:
        if key.endswith(".linear1.weight"):
            rows = sum(linear1_rows(shapes, key, 4)[:3])
            found[key.removesuffix(".weight") + "_qkv"] = Target(key, (0, rows))
    return found


_QUANTIZED = (
    r"double_blocks\.\d+\.(?:img|txt)_(?:attn\.(?:qkv|proj)|mlp\.(?:0|2|\w+_proj)|mod\.lin)"
    r"|single_blocks\.\d+\.(?:linear1|linear2|modulation\.lin)"
)
FAMILY = Family(
    name="flux",
    title="FLUX.1",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=spelling,
    to_core=to_core,
    aliases=aliases,
    keep=(
        Rule(r"(?:img|txt)_in", "input projection: small, and every token passes it"),
        Rule(r"(?:time|vector|guidance)_in\..*", "embedder: small, and it steers every block"),
        Rule(r"final_layer\..*", "final layer: its error goes straight into the latent"),
        _keep.modulation(r".*(?:_mod|modulation)\.lin"),
        _keep.only(_QUANTIZED, "outside the blocks' attention, MLP and modulation linears"),
    ),
)
