"""T5 and UMT5 encoders: FAMILY out. Core's names are Hugging Face's.

Wan's own file and GGUF files (llama.cpp) have others.

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
_GGUF = {
    **renames({x: x for x in "qkvo"}, "enc.blk.{}.attn_*", f"{_SELF}.SelfAttention.*"),
    **renames(
        {
            "attn_norm": f"{_SELF}.layer_norm",
            "attn_rel_b": f"{_SELF}.SelfAttention.relative_attention_bias",
            "ffn_norm": f"{_FEED}.layer_norm",
            "ffn_gate": f"{_FEED}.DenseReluDense.wi_0",
            "ffn_up": f"{_FEED}.DenseReluDense.wi_1",
            "ffn_down": f"{_FEED}.DenseReluDense.wo",
        },
        "enc.blk.{}.*",
    ),
    "token_embd": Place("shared"),
    "enc.output_norm": Place("encoder.final_layer_norm"),
}
_TABLES = {"wan": _WAN, "gguf": _GGUF}


def spelling(shapes: Shapes) -> str | None:
    """`core` by Hugging Face's block 0, `wan` and `gguf` by their gated block."""
    if "encoder.block.0.layer.0.SelfAttention.q.weight" in shapes:
        return "core"
    if "enc.blk.0.attn_q.weight" in shapes and "enc.blk.0.ffn_gate.weight" in shapes:
        return "gguf"
    needs = ("token_embedding.weight", "blocks.0.attn.q.weight", "blocks.0.ffn.gate.0.weight")
    return "wan" if all(name in shapes for name in needs) else None


def to_core(layers: tuple[Layer, ...], spelled: str) -> tuple[Layer, ...]:
    """Wan's or llama.cpp's T5 under Hugging Face's names."""
    if spelled == "core":
        return layers

    def place(module: str) -> Place | None:
        return _spelling.find(_TABLES[spelled], module)

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
