"""More of `tiny`: small checkpoints of FLUX.2, Chroma, Z-Image, SD3.5, LTX-Video, HunyuanVideo 1.5.

Core fixes the width of Chroma (3072) and of Z-Image (3840): those have one block of each kind.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .tiny import Shapes, shapes_of, write

CONTEXT = 128  # text width of the models that take any


def _times(old: int, new: int, *factors: int) -> dict[int, int]:
    """A width and its multiples by another width's."""
    return {old * factor: new * factor for factor in factors}


def flux2(path: Path, hidden: int = 256, double: int = 2, single: int = 2, seed: int = 0) -> Path:
    """FLUX.2 with guidance. Core derives hidden // 128 heads."""
    sizes = _times(6144, hidden, 1, 2, 3, 4, 6, 9) | {15360: CONTEXT}
    blocks = {"double_blocks": double, "single_blocks": single}
    return write(path, shapes_of("flux2-dev", sizes, blocks), seed, torch.bfloat16)


def chroma(path: Path, seed: int = 0) -> Path:
    """Chroma at its real width: 0.58 billion numbers, half of them in the guidance network."""
    blocks = {"double_blocks": 1, "single_blocks": 1}
    return write(path, shapes_of("chroma1-hd", {}, blocks), seed, torch.bfloat16)


def z_image(path: Path, seed: int = 0) -> Path:
    """Z-Image at its real width: 0.89 billion numbers, the refiners' four blocks and one more."""
    return write(path, shapes_of("z-image-turbo", {}, {"layers": 1}), seed, torch.bfloat16)


def hunyuan_15(path: Path, hidden: int = 256, double: int = 2, seed: int = 0) -> Path:
    """HunyuanVideo 1.5. Core fixes the two condition inputs of 2048 and 1152."""
    sizes = _times(2048, hidden, 1, 2, 3, 4, 6) | {3584: CONTEXT}
    shapes = shapes_of("hunyuan-video-1.5", sizes, {"double_blocks": double})
    shapes |= {"byt5_in.fc1.weight": (2048, 1472), "byt5_in.fc1.bias": (2048,),
               "byt5_in.fc2.weight": (2048, 2048), "byt5_in.fc2.bias": (2048,),
               "byt5_in.fc3.weight": (hidden, 2048)}  # fmt: skip
    return write(path, shapes, seed, torch.bfloat16)


def ltx(path: Path, heads: int = 4, blocks: int = 2, seed: int = 0) -> Path:
    """LTX-Video. What core cannot see in the shapes stands in the file's header, as in public ones.

    A loader that drops the header builds a model whose text projection does not fit.
    """
    width = heads * 64
    settings = {"num_attention_heads": heads, "attention_head_dim": 64, "in_channels": 128,
                "caption_channels": CONTEXT, "cross_attention_dim": width,
                "causal_temporal_positioning": True, "num_layers": blocks}  # fmt: skip
    sizes = _times(2048, width, 1, 4, 6) | {4096: CONTEXT}
    shapes = shapes_of("ltx-video-0.9-2b", sizes, {"transformer_blocks": blocks})
    header = {"config": json.dumps({"transformer": settings})}
    return write(path, shapes, seed, torch.bfloat16, header=header)


def sd35(path: Path, depth: int = 4, seed: int = 0) -> Path:
    """SD3.5: core takes one block, one head and 64 of width for each step of depth.

    The first block has a second attention; the last one reads the text and does not write it.
    """
    width = depth * 64

    def linear(name: str, rows: int, inputs: int) -> Shapes:
        return {f"{name}.weight": (rows, inputs), f"{name}.bias": (rows,)}

    shapes: Shapes = {"pos_embed": (1, 256, width), "x_embedder.proj.weight": (width, 16, 2, 2),
                      "x_embedder.proj.bias": (width,)}  # fmt: skip
    shapes |= linear("context_embedder", width, CONTEXT)
    for name, inputs in (("t_embedder", 256), ("y_embedder", 64)):
        shapes |= linear(f"{name}.mlp.0", width, inputs) | linear(f"{name}.mlp.2", width, width)
    shapes |= linear("final_layer.linear", 64, width)
    shapes |= linear("final_layer.adaLN_modulation.1", 2 * width, width)
    for block in range(depth):
        for half in ("x_block", "context_block"):
            at, reads = f"joint_blocks.{block}.{half}.", half == "x_block" or block < depth - 1
            attentions = ("attn", "attn2") if half == "x_block" and block == 0 else ("attn",)
            for attention in attentions:
                shapes |= linear(f"{at}{attention}.qkv", 3 * width, width)
                shapes |= {f"{at}{attention}.ln_{x}.weight": (64,) for x in "qk"}
                shapes |= linear(f"{at}{attention}.proj", width, width) if reads else {}
            if reads:
                shapes |= linear(f"{at}mlp.fc1", 4 * width, width)
                shapes |= linear(f"{at}mlp.fc2", width, 4 * width)
            parts = 2 if not reads else 9 if len(attentions) == 2 else 6
            shapes |= linear(f"{at}adaLN_modulation.1", parts * width, width)
    return write(path, shapes, seed, torch.bfloat16)


# FLUX.2: {core: Diffusers}; a joined weight has three names
_FLUX2_BLOCKS = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.proj": ("attn.to_out.0",), "txt_attn.proj": ("attn.to_add_out",),
    "img_attn.norm.query_norm": ("attn.norm_q",), "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_mlp.0": ("ff.linear_in",), "img_mlp.2": ("ff.linear_out",),
    "txt_mlp.0": ("ff_context.linear_in",), "txt_mlp.2": ("ff_context.linear_out",),
    "linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",),
    "norm.query_norm": ("attn.norm_q",), "norm.key_norm": ("attn.norm_k",),
}  # fmt: skip
_FLUX2_OUTSIDE = {
    "img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    **{f"{at}_in.{side}_layer": f"time_guidance_embed.{name}_embedder.linear_{number}"
       for at, name in (("time", "timestep"), ("guidance", "guidance"))
       for number, side in ((1, "in"), (2, "out"))},
    **{f"{at}.lin": f"{at}.linear" for at in (
        "double_stream_modulation_img", "double_stream_modulation_txt",
        "single_stream_modulation")},
}  # fmt: skip


def flux2_as_diffusers(path: Path, model: Path) -> Path:
    """The same FLUX.2 as Diffusers stores it: q, k, v apart, the last modulation's halves swapped.

    Stock ComfyUI 0.33 does not open such a file.
    """
    spelled = {}
    for key, tensor in load_file(str(model)).items():
        name = key.removesuffix(".weight").removesuffix(".scale")
        if name == "final_layer.adaLN_modulation.1":
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if "blocks." not in name:
            spelled[f"{_FLUX2_OUTSIDE[name]}.weight"] = tensor.contiguous()
            continue
        kind, block, rest = name.split(".", 2)
        at = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}
        names = _FLUX2_BLOCKS[rest]
        for part, chunk in zip(names, tensor.chunk(len(names)), strict=True):
            spelled[f"{at[kind]}.{block}.{part}.weight"] = chunk.clone()
    save_file(spelled, str(path), metadata={"format": "pt"})
    return path
