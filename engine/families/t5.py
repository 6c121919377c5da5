"""T5 and UMT5 encoders: FAMILY out. Core's names are Hugging Face's; Wan's own file has others.

The output linear `wo` is quantized like the rest: what overflows in float16 are its activations,
and ComfyUI computes text encoders in float32.
"""

from __future__ import annotations

from ..family import Family, Rule, Shapes, Target
from ..layer import Layer
from . import _keep, _spelling
from ._spelling import Place, renames

_SELF, _FEED = "encoder.block.{}.layer.0", "encoder.block.{}.layer.1"
_WAN = {
    **renames({x: x for x in "qkvo"}, "blocks.{}.attn.*", f"{_SELF}.SelfAttention.*"),
    **renames(
        {
            "norm1": f"{_SELF}.layer_norm",
            "norm2": f"{_FEED}.layer_norm",
            "pos_embedding.embedding": f"{_SELF}.SelfAttention.relative_attention_bias",
            "ffn.gate.0": f"{_FEED}.DenseReluDense.wi_0",
            "ffn.fc1": f"{_FEED}.DenseReluDense.wi_1",
            "ffn.fc2": f"{_FEED}.DenseReluDense.wo",
        },
        "blocks.{}.*",
    ),
    "token_embedding": Place("shared"),
    "norm": Place("encoder.final_layer_norm"),
}


def spelling(shapes: Shapes) -> str | None:
    """`core` by Hugging Face's block 0, `wan` by Wan's gated block."""
    if "encoder.block.0.layer.0.SelfAttention.q.weight" in shapes:
        return "core"
    needs = ("token_embedding.weight", "blocks.0.attn.q.weight", "blocks.0.ffn.gate.0.weight")
    return "wan" if all(name in shapes for name in needs) else None


def to_core(layers: tuple[Layer, ...], spelled: str) -> tuple[Layer, ...]:
    """Wan's T5 under Hugging Face's names."""
    if spelled == "core":
        return layers

    def place(module: str) -> Place | None:
        return _spelling.find(_WAN, module)

    return tuple(_spelling.convert(layers, place))


def aliases(shapes: Shapes) -> dict[str, Target]:
    """Wan's names."""
    return _spelling.targets(_WAN, shapes)


_QUANTIZED = (
    r"encoder\.block\.\d+\.layer\."
    r"(?:0\.SelfAttention\.[qkvo]|1\.DenseReluDense\.(?:wi(?:_[01])?|wo))"
)
FAMILY = Family(
    name="t5",
    title="T5 or UMT5 text encoder",
    kind="text",
    loads_in="CLIPLoader",
    spelling=spelling,
    to_core=to_core,
    aliases=aliases,
    keep=(
        Rule(r"shared|encoder\.embed_tokens", "token table: looked up, not multiplied"),
        Rule(r".*relative_attention_bias", "position table: looked up, not multiplied"),
        _keep.only(_QUANTIZED, "outside the encoder's attention and feed-forward linears"),
    ),
)
