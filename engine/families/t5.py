"""T5 and UMT5 encoders: FAMILY out. Core's names are Hugging Face's; Wan's own file has others.

The output linear `wo` is quantized like the rest: what overflows in float16 are its activations,
and ComfyUI computes text encoders in float32.
"""

from __future__ import annotations

from ..family import Family, Rule
from . import _keep
from ._spelling import Place, Sign, called_by, converted_by, known_by, renames

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


_QUANTIZED = (
    r"encoder\.block\.\d+\.layer\."
    r"(?:0\.SelfAttention\.[qkvo]|1\.DenseReluDense\.(?:wi(?:_[01])?|wo))"
)
FAMILY = Family(
    name="t5",
    title="T5 or UMT5 text encoder",
    kind="text",
    loads_in="CLIPLoader",
    spelling=known_by(
        Sign("core", all_of=("encoder.block.0.layer.0.SelfAttention.q.weight",)),
        Sign(
            "wan",
            all_of=(
                "token_embedding.weight",
                "blocks.0.attn.q.weight",
                "blocks.0.ffn.gate.0.weight",
            ),
        ),
    ),
    to_core=converted_by(_WAN),
    aliases=called_by(_WAN),
    keep=(
        Rule(r"shared|encoder\.embed_tokens", "token table: looked up, not multiplied"),
        Rule(r".*relative_attention_bias", "position table: looked up, not multiplied"),
        _keep.only(_QUANTIZED, "outside the encoder's attention and feed-forward linears"),
    ),
)
