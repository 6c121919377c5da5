"""CLIP text encoders (L, H, G) under Hugging Face's names: FAMILY out.

ComfyUI 0.33 does not look for quantized layers in them: this pack's loader opens such a file.
"""

from __future__ import annotations

from ..family import Family, Rule, Shapes
from . import _keep


def spelling(shapes: Shapes) -> str | None:
    """`core` by the text model's token table and first block."""
    needs = (
        "text_model.embeddings.token_embedding.weight",
        "text_model.encoder.layers.0.self_attn.q_proj.weight",
    )
    return "core" if all(name in shapes for name in needs) else None


FAMILY = Family(
    name="clip",
    title="CLIP text encoder",
    kind="text",
    loads_in="CLIPLoader",
    spelling=spelling,
    keep=(
        Rule(r"text_model\.embeddings\..*", "token and position tables: looked up, not multiplied"),
        Rule(r"text_projection", "projection: one row for the whole prompt"),
        _keep.only(
            r"text_model\.encoder\.layers\.\d+\.(?:self_attn\.(?:[qkv]|out)_proj|mlp\.fc[12])",
            "outside the blocks' attention and MLP linears",
        ),
    ),
)
