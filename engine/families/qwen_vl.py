"""Qwen-VL, Qwen3, Mistral, Llama and Gemma, language models used as text encoders: FAMILY out.

Their vision tower stays as it is: 8 % of Qwen2.5-VL 7B, and edit models read images through it.
"""

from __future__ import annotations

from ..family import Family, Rule, Shapes
from ..layer import Layer
from . import _keep, _spelling
from ._spelling import Place, renames

_BLOCK = "layers.0.self_attn.o_proj.weight"
# newer Hugging Face files of Qwen2.5-VL; ComfyUI looks for the older names
_NESTED = {"model.language_model.": "model.", "model.visual.": "visual."}
_GGUF = {
    **renames(
        {
            **{f"attn_{x}": f"self_attn.{x}_proj" for x in "qkv"},
            "attn_output": "self_attn.o_proj",
            "attn_q_norm": "self_attn.q_norm",
            "attn_k_norm": "self_attn.k_norm",
            "attn_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm",
            **{f"ffn_{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")},
        },
        "blk.{}.*",
        "model.layers.{}.*",
    ),
    **renames(
        {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    ),
}
# of Qwen2 and Qwen3: llama.cpp stores q and k of Llama and Mistral in another order of rows
_QWEN_SIGNS = ("blk.0.attn_q.bias", "blk.0.attn_q_norm.weight")


def spelling(shapes: Shapes) -> str | None:
    """`core`, `gguf`, or `nested`: Qwen2.5-VL in `model.language_model.` and `model.visual.`.

    ComfyUI knows Qwen3-VL by the nested names themselves, so there they are core's.
    """
    if f"model.{_BLOCK}" in shapes:
        return "core"
    if "blk.0.attn_output.weight" in shapes and any(sign in shapes for sign in _QWEN_SIGNS):
        return "gguf"
    if f"model.language_model.{_BLOCK}" not in shapes:
        return None
    older = "model.language_model.layers.0.self_attn.k_proj.bias" in shapes
    return "nested" if older else "core"


def to_core(layers: tuple[Layer, ...], spelled: str) -> tuple[Layer, ...]:
    """Nested names without the nest, llama.cpp's as Hugging Face's."""
    if spelled == "core":
        return layers

    def place(module: str) -> Place | None:
        if spelled == "gguf":
            return _spelling.find(_GGUF, module)
        found = next((nest for nest in _NESTED if module.startswith(nest)), None)
        return Place(_NESTED[found] + module[len(found) :]) if found else None

    return tuple(_spelling.convert(layers, place))


FAMILY = Family(
    name="qwen_vl",
    title="Qwen-VL or another decoder text encoder",
    kind="text",
    loads_in="CLIPLoader",
    spelling=spelling,
    to_core=to_core,
    keep=(
        Rule(r".*embed_tokens|.*lm_head", "token table: looked up, or not used for conditioning"),
        Rule(
            r"(?:model\.)?visual\..*|vision_model\..*|multi_modal_projector\..*",
            "vision tower: small, and the image is read through it",
        ),
        _keep.only(
            r"model\.(?:language_model\.)?layers\.\d+\."
            r"(?:self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)",
            "outside the blocks' attention and MLP linears",
        ),
    ),
)
