"""CLIP and SigLIP vision towers: FAMILY out. Core's names are Hugging Face's; Wan has its own.

Wan's file holds q, k and v joined, its tables with leading ones in the shape and the projection
transposed; its text half is not part of a vision tower.
"""

from __future__ import annotations

from dataclasses import replace

from ..family import Family, Rule
from ..layer import Layer
from . import _keep, _spelling
from ._spelling import Sign, known_by, renames

_LAYER = "vision_model.encoder.layers.{}."
_WAN = {
    **renames(
        {
            "norm1": "layer_norm1",
            "norm2": "layer_norm2",
            "attn.proj": "self_attn.out_proj",
            "mlp.0": "mlp.fc1",
            "mlp.2": "mlp.fc2",
        },
        "visual.transformer.{}.*",
        _LAYER + "*",
    ),
    **renames(
        {
            "patch_embedding": "embeddings.patch_embedding",
            "pre_norm": "pre_layrnorm",
            "post_norm": "post_layernorm",
        },
        "visual.*",
        "vision_model.*",
    ),
}
_CLASS, _POSITION = "visual.cls_embedding", "visual.pos_embedding"


# a tower with the text model that it was trained with, or with one that reads its images
_TEXT = ("text_model.encoder.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight")


def _convert(layer: Layer) -> list[Layer]:
    """What one of Wan's layers is in core's model: three of a joined one, none of the text half."""
    module, leaf = _spelling.split_leaf(layer.key)
    form, index = _spelling.template(module)
    if form == "visual.transformer.{}.attn.to_qkv":
        rows = layer.shape[0] // 3
        block = _LAYER.replace("{}", index) + "self_attn."
        return [
            _spelling.row_slice(layer, f"{block}{x}_proj{leaf}", i * rows, (i + 1) * rows)
            for i, x in enumerate("qkv")
        ]
    if layer.key == _CLASS:
        key = "vision_model.embeddings.class_embedding"
        return [_spelling.seen_as(layer, key, layer.shape[-1:])]
    if layer.key == _POSITION:
        key = "vision_model.embeddings.position_embedding.weight"
        return [_spelling.seen_as(layer, key, layer.shape[-2:])]
    if layer.key == "visual.head":
        key = "visual_projection.weight"
        return [_spelling.seen_as(layer, key, layer.shape[::-1], transposed=True)]
    place = _spelling.find(_WAN, module)
    return [replace(layer, key=place.module + leaf)] if place else []


def to_core(layers: tuple[Layer, ...], spelled: str) -> tuple[Layer, ...]:
    """Wan's vision tower under Hugging Face's names; its text half is left out."""
    if spelled == "core":
        return layers
    return tuple(found for layer in layers for found in _convert(layer))


FAMILY = Family(
    name="clip_vision",
    title="CLIP or SigLIP vision tower",
    kind="vision",
    loads_in="CLIPVisionLoader",
    spelling=known_by(
        Sign(
            "core",
            all_of=("vision_model.encoder.layers.0.self_attn.q_proj.weight",),
            none_of=_TEXT,
        ),
        Sign(
            "wan",
            all_of=("visual.transformer.0.attn.to_qkv.weight", "visual.patch_embedding.weight"),
        ),
    ),
    to_core=to_core,
    keep=(
        Rule(r"vision_model\.embeddings\..*", "position table: looked up, not multiplied"),
        Rule(r"visual_projection|vision_model\.head\..*", "projection: one row for an image"),
        _keep.only(
            r"vision_model\.encoder\.layers\.\d+\.(?:self_attn\.(?:[qkv]|out)_proj|mlp\.fc[12])",
            "outside the blocks' attention and MLP linears",
        ),
    ),
)
