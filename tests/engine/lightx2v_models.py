"""Small models of every kind that LightX2V opens, and what its converter chooses by."""

from __future__ import annotations

import math

import torch

Tensors = dict[str, torch.Tensor]
D = 64
REFINER = "txt_in.individual_token_refiner.blocks.0"
# what LightX2V's converter goes by: (component of the name, values, substrings that are left out)
RULES = {
    "wan": (2, ("self_attn", "cross_attn", "ffn"), ()),
    "qwen": (2, ("attn", "img_mlp", "txt_mlp", "txt_mod", "img_mod"), ()),
    "t5": (2, ("attn", "ffn"), ("spiece_model",)),
    "clip": (3, ("attn", "mlp"), ("textual",)),
    "z_image": (2, ("attention", "feed_forward", "adaLN_modulation", "linear"), ()),
    "hunyuan": (
        2,
        tuple(
            f"{side}_{part}"
            for side in ("img", "txt")
            for part in ("mod", "attn_q", "attn_k", "attn_v", "attn_proj", "mlp")
        ),
        (),
    ),
}


def chosen(rule: str, name: str, shape: tuple[int, ...]) -> bool:
    """As the converter decides, tensor by tensor."""
    place, values, _ = RULES[rule]
    parts = name.split(".")
    return len(shape) == 2 and len(parts) > place and parts[place] in values


def randn(*shape: int) -> torch.Tensor:
    seed = math.prod(shape) + len(shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05


def wan(blocks: int = 2) -> Tensors:
    found = {
        "patch_embedding.weight": randn(D, 16, 1, 2, 2),
        "text_embedding.0.weight": randn(D, 32),
        "time_projection.1.weight": randn(6 * D, D),
        "head.head.weight": randn(64, D),
        "head.modulation": randn(1, 2, D),
    }
    for block in range(blocks):
        at = f"blocks.{block}."
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                found[f"{at}{attention}.{part}.weight"] = randn(D, D) * (block + 1)
                found[f"{at}{attention}.{part}.bias"] = randn(D)
            found[f"{at}{attention}.norm_q.weight"] = randn(D)
        found |= {f"{at}ffn.0.weight": randn(4 * D, D), f"{at}ffn.2.weight": randn(D, 4 * D)}
        found[f"{at}modulation"] = randn(1, 6, D)
    return {name: tensor.bfloat16() for name, tensor in found.items()}


def qwen() -> Tensors:
    at = "transformer_blocks.0."
    found = {"txt_norm.weight": randn(D), "img_in.weight": randn(D, 64)}
    found["proj_out.weight"] = randn(64, D)
    found |= {f"{at}attn.{x}.weight": randn(D, D) for x in ("to_q", "to_k", "to_v", "add_k_proj")}
    found |= {f"{at}img_mod.1.weight": randn(6 * D, D), f"{at}attn.norm_q.weight": randn(16)}
    return found | {f"{at}img_mlp.net.0.proj.weight": randn(4 * D, D)}


def t5_core() -> Tensors:
    at = "encoder.block.0.layer."
    found = {
        "shared.weight": randn(100, D),
        "spiece_model": torch.ones(30, dtype=torch.uint8),
        "encoder.final_layer_norm.weight": randn(D),
        f"{at}0.SelfAttention.relative_attention_bias.weight": randn(32, 4),
        f"{at}0.layer_norm.weight": randn(D),
        f"{at}1.DenseReluDense.wi_0.weight": randn(128, D),
        f"{at}1.DenseReluDense.wo.weight": randn(D, 128),
    }
    return found | {f"{at}0.SelfAttention.{x}.weight": randn(D, D) * 2 for x in "qkvo"}


def z_image_core() -> Tensors:
    found = {"cap_embedder.1.weight": randn(D, D), "x_embedder.weight": randn(D, 64)}
    for at in ("noise_refiner.0.", "layers.0."):
        found[f"{at}attention.qkv.weight"] = randn(3 * D, D)
        found[f"{at}attention.out.weight"] = randn(D, D)
        found[f"{at}feed_forward.w1.weight"] = randn(2 * D, D)
        found[f"{at}adaLN_modulation.0.weight"] = randn(4 * D, D)
    return found


def hunyuan_split() -> Tensors:
    found = {
        **{f"{REFINER}.self_attn_{x}.weight": randn(D, D) for x in "qkv"},
        f"{REFINER}.norm1.weight": randn(D),
        "img_in.proj.weight": randn(D, 16, 1, 2, 2),
    }
    parts = ("q", "k", "v", "proj")
    found |= {f"double_blocks.0.img_attn_{x}.weight": randn(D, D) for x in parts}
    found |= {f"double_blocks.0.txt_attn_{x}.weight": randn(D, D) for x in parts}
    return found | {"double_blocks.0.img_mod.linear.weight": randn(6 * D, D)}


def clip_wan() -> Tensors:
    at = "visual.transformer.0."
    return {
        f"{at}attn.to_qkv.weight": randn(3 * D, D),
        f"{at}attn.to_qkv.bias": randn(3 * D),
        f"{at}mlp.0.weight": randn(4 * D, D),
        f"{at}norm1.weight": randn(D),
        "visual.patch_embedding.weight": randn(D, 3, 14, 14),
        "visual.cls_embedding": randn(1, 1, D),
        "textual.token_embedding.weight": randn(100, D),
    }
