"""Stable Diffusion 3 and 3.5 (medium, large): FAMILY out. Core's names are Stability's own.

In Diffusers the two halves of the last modulation are the other way round, and so are those of the
text half in the last block, which reads the text and does not write it.
"""

from __future__ import annotations

from dataclasses import replace

from ..family import Family, Rule, Shapes, Target
from ..layer import Layer
from . import _keep, _spelling
from ._spelling import Place, Sign, known_by, renames, sides, stacked

_SPELLED, _BLOCK = "transformer_blocks.{}.", "joint_blocks.{}."
_TEXT_MODULATION = f"{_SPELLED}norm1_context.linear"


def _stream(half: str, mlp: str, attention: dict[str, str]) -> dict[str, Place]:
    """The MLP and the attention norms and outputs of one half of a block."""
    names = {f"{mlp}.net.0.proj": "mlp.fc1", f"{mlp}.net.2": "mlp.fc2"} | attention
    return renames(names, _SPELLED + "*", f"{_BLOCK}{half}.*")


_DIFFUSERS = {
    **stacked([f"{_SPELLED}attn.to_{x}" for x in "qkv"], f"{_BLOCK}x_block.attn.qkv"),
    **stacked([f"{_SPELLED}attn2.to_{x}" for x in "qkv"], f"{_BLOCK}x_block.attn2.qkv"),
    **stacked([f"{_SPELLED}attn.add_{x}_proj" for x in "qkv"], f"{_BLOCK}context_block.attn.qkv"),
    **_stream(
        "x_block",
        "ff",
        {
            "norm1.linear": "adaLN_modulation.1",
            **{f"{x}.to_out.0": f"{x}.proj" for x in ("attn", "attn2")},
            **{f"{x}.norm_{y}": f"{x}.ln_{y}" for x in ("attn", "attn2") for y in "qk"},
        },
    ),
    **_stream(
        "context_block",
        "ff_context",
        {
            "norm1_context.linear": "adaLN_modulation.1",
            "attn.to_add_out": "attn.proj",
            **{f"attn.norm_added_{x}": f"attn.ln_{x}" for x in "qk"},
        },
    ),
    **sides(
        {
            "time_text_embed.timestep_embedder": "t_embedder",
            "time_text_embed.text_embedder": "y_embedder",
        },
        ("mlp.0", "mlp.2"),
    ),
    "pos_embed.proj": Place("x_embedder.proj"),
    "pos_embed.pos_embed": Place("pos_embed"),
    "proj_out": Place("final_layer.linear"),
    "norm_out.linear": Place("final_layer.adaLN_modulation.1", swapped=True),
}


def to_core(layers: tuple[Layer, ...], spelled: str) -> tuple[Layer, ...]:
    """Diffusers' names as core's, q, k and v joined, the swapped halves put right."""
    if spelled == "core":
        return layers
    forms = (_spelling.template(_spelling.split_leaf(layer.key)[0]) for layer in layers)
    last = max((int(i) for form, i in forms if form == _TEXT_MODULATION), default=-1)

    def place(module: str) -> Place | None:
        found = _spelling.find(_DIFFUSERS, module)
        if found and module == _TEXT_MODULATION.replace("{}", str(last)):
            return replace(found, swapped=True)
        return found

    return tuple(_spelling.convert(layers, place))


def aliases(shapes: Shapes) -> dict[str, Target]:
    """Diffusers' names; a text half that only reads has two rows of modulation, not six."""
    found = _spelling.targets(_DIFFUSERS, shapes)
    for name, target in found.items():
        shape = shapes[target.key]
        reads = target.key.endswith("context_block.adaLN_modulation.1.weight")
        if reads and shape[0] == 2 * shape[1]:
            found[name] = replace(target, halves_swapped=True)
    return found


_LINEARS = (
    r"joint_blocks\.\d+\.(?:x|context)_block\."
    r"(?:attn2?\.(?:qkv|proj)|mlp\.fc[12]|adaLN_modulation\.1)"
)
FAMILY = Family(
    name="sd3",
    title="Stable Diffusion 3",
    kind="diffusion",
    loads_in="UNETLoader",
    spelling=known_by(
        Sign(
            "core",
            all_of=("joint_blocks.0.context_block.attn.qkv.weight", "final_layer.linear.weight"),
        ),
        Sign(
            "diffusers",
            all_of=(
                "pos_embed.proj.weight",
                "norm_out.linear.weight",
                "transformer_blocks.0.attn.add_q_proj.weight",
                "transformer_blocks.0.norm1_context.linear.weight",
            ),
        ),
    ),
    to_core=to_core,
    aliases=aliases,
    keep=(
        Rule(r"(?:x|y|t|context)_embedder.*", "embedder: small, and every block reads its output"),
        Rule(r"pos_embed", "position table: looked up, not multiplied"),
        Rule(r"final_layer\..*", "final layer: its error goes straight into the latent"),
        _keep.modulation(r".*adaLN_modulation\.1"),
        _keep.only(_LINEARS, "outside the blocks' attention, MLP and modulation linears"),
    ),
)
