"""Tiny models with real names: (family, spelling, shapes), and the family of every spec."""

from __future__ import annotations

from fusequant.engine.family import Shapes

D = 256
KEY_NORM = "double_blocks.0.img_attn.norm.key_norm"
FLUX = {
    "img_in.weight": (D, 64),
    f"{KEY_NORM}.scale": (128,),
    "double_blocks.0.img_attn.qkv.weight": (3 * D, D),
    "single_blocks.0.linear1.weight": (7 * D, D),
}
FLUX_DIFFUSERS = {
    "x_embedder.weight": (D, 64),
    "context_embedder.weight": (D, 64),
    "norm_out.linear.weight": (2 * D, D),
    "transformer_blocks.0.norm1_context.linear.weight": (6 * D, D),
    **{f"transformer_blocks.0.attn.to_{x}.weight": (D, D) for x in "qkv"},
}
FLUX2_DIFFUSERS = {
    "x_embedder.weight": (D, 128),
    "context_embedder.weight": (D, 64),
    "norm_out.linear.weight": (2 * D, D),
    "double_stream_modulation_img.linear.weight": (6 * D, D),
    "single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight": (9 * D, D),
    **{f"transformer_blocks.0.attn.to_{x}.weight": (D, D) for x in "qkv"},
}
GUIDANCE = {"distilled_guidance_layer.in_proj.weight": (64, 64)}
RADIANCE = {"img_in_patch.weight": (D, 3, 16, 16), f"{KEY_NORM}.scale": (128,), **GUIDANCE}
QWEN = {
    "txt_norm.weight": (64,),
    "img_in.weight": (D, 64),
    "transformer_blocks.0.attn.add_k_proj.weight": (D, D),
    "transformer_blocks.0.img_mod.1.weight": (6 * D, D),
    "__index_timestep_zero__": (0,),
}
QWEN_21 = {"txt_in.text_norm.weight": (64,), "img_in.weight": (D, 64)}
WAN = {"head.modulation": (1, 2, D), "blocks.0.self_attn.q.weight": (D, D)}
WAN_DIFFUSERS = {
    "condition_embedder.time_proj.weight": (6 * D, D),
    "blocks.0.attn1.to_q.weight": (D, D),
    "scale_shift_table": (1, 2, D),
}
REFINER = {"txt_in.individual_token_refiner.blocks.0.norm1.weight": (D,)}
HUNYUAN = {"img_in.proj.weight": (D, 16, 1, 2, 2), f"{KEY_NORM}.weight": (128,), **REFINER}
HUNYUAN_DIFFUSERS = {
    "x_embedder.proj.weight": (D, 16, 1, 2, 2),
    "context_embedder.token_refiner.refiner_blocks.0.norm1.weight": (D,),
    "norm_out.linear.weight": (2 * D, D),
    "transformer_blocks.0.norm1_context.linear.weight": (6 * D, D),
    **{f"transformer_blocks.0.attn.add_{x}_proj.weight": (D, D) for x in "qkv"},
}
CAPTION = {"cap_embedder.1.weight": (D, 64)}
REFINED = {"noise_refiner.0.attention.qkv.weight": (3 * D, D)}
LUMINA_DIFFUSERS = {
    "x_embedder.weight": (D, 64),
    "time_caption_embed.caption_embedder.1.weight": (D, 64),
    "noise_refiner.0.norm1.linear.weight": (4 * D, D),
    "norm_out.linear_2.weight": (64, D),
    **{f"noise_refiner.0.attn.to_{x}.weight": (D, D) for x in "qkv"},
}
SD3_DIFFUSERS = {
    "pos_embed.proj.weight": (D, 16, 2, 2),
    "context_embedder.weight": (D, 64),
    "norm_out.linear.weight": (2 * D, D),
    "transformer_blocks.0.norm1_context.linear.weight": (6 * D, D),
    **{f"transformer_blocks.0.attn.to_{x}.weight": (D, D) for x in "qkv"},
    **{f"transformer_blocks.0.attn.add_{x}_proj.weight": (D, D) for x in "qkv"},
}
LTX = {"transformer_blocks.0.attn1.to_q.weight": (D, D)}
LTX_CORE = {"patchify_proj.weight": (D, 128), "adaln_single.linear.weight": (6 * D, D), **LTX}
LTX_DIFFUSERS = {
    "proj_in.weight": (D, 128),
    "time_embed.linear.weight": (6 * D, D),
    "time_embed.emb.timestep_embedder.linear_1.weight": (D, 256),
    **LTX,
}
SOUND = {"transformer_blocks.0.audio_attn1.to_q.weight": (D, D)}
TINY: list[tuple[str, str, Shapes]] = [
    ("flux", "core", FLUX),
    ("flux", "diffusers", FLUX_DIFFUSERS),
    ("flux2", "core", FLUX | {"double_stream_modulation_img.lin.weight": (6 * D, D)}),
    ("flux2", "diffusers", FLUX2_DIFFUSERS),
    ("chroma", "core", FLUX | GUIDANCE),
    ("chroma", "core", RADIANCE),
    (
        "chroma",
        "diffusers",
        {
            "x_embedder.weight": (D, 64),
            **{f"transformer_blocks.0.attn.to_{x}.weight": (D, D) for x in "qkv"},
            **GUIDANCE,
        },
    ),
    ("krea2", "core", {"txtfusion.projector.weight": (1, 12), "blocks.0.attn.wq.weight": (D, D)}),
    (
        "krea2",
        "diffusers",
        {
            "text_fusion.projector.weight": (1, 12),
            "transformer_blocks.0.attn.to_gate.weight": (D, D),
        },
    ),
    ("qwen_image", "core", QWEN),
    (
        "qwen_image_21",
        "core",
        QWEN_21 | {"transformer_blocks.0.img_mlp.gate_up.weight": (6 * D, D)},
    ),
    (
        "qwen_image_21",
        "diffusers",
        QWEN_21
        | {f"transformer_blocks.0.img_mlp.{x}.weight": (3 * D, D) for x in ("gate_layer", "proj")},
    ),
    ("wan", "core", WAN),
    ("wan", "diffusers", WAN_DIFFUSERS),
    ("hunyuan_video", "core", HUNYUAN | {"double_blocks.0.img_attn.qkv.weight": (3 * D, D)}),
    ("hunyuan_video", "tencent", REFINER | {"double_blocks.0.img_attn_qkv.weight": (3 * D, D)}),
    (
        "hunyuan_video",
        "split",
        REFINER | {f"double_blocks.0.img_attn_{x}.weight": (D, D) for x in "qkv"},
    ),
    ("hunyuan_video", "diffusers", HUNYUAN_DIFFUSERS),
    ("z_image", "core", CAPTION | REFINED),
    (
        "z_image",
        "diffusers",
        CAPTION | {f"noise_refiner.0.attention.to_{x}.weight": (D, D) for x in "qkv"},
    ),
    (
        "lumina2",
        "core",
        CAPTION | REFINED | {"noise_refiner.0.adaLN_modulation.1.weight": (4 * D, D)},
    ),
    ("lumina2", "diffusers", LUMINA_DIFFUSERS),
    (
        "sd3",
        "core",
        {
            "joint_blocks.0.context_block.attn.qkv.weight": (3 * D, D),
            "final_layer.linear.weight": (64, D),
        },
    ),
    ("sd3", "diffusers", SD3_DIFFUSERS),
    (
        "hidream",
        "core",
        {
            "caption_projection.0.linear.weight": (D, 64),
            "double_stream_blocks.0.block.attn1.to_q.weight": (D, D),
        },
    ),
    ("ltx_video", "core", LTX_CORE),
    ("ltx_video", "diffusers", LTX_DIFFUSERS),
    (
        "ltx2",
        "core",
        LTX_CORE
        | SOUND
        | {
            "audio_adaln_single.linear.weight": (6 * D, D),
            "audio_patchify_proj.weight": (D, 128),
        },
    ),
    (
        "ltx2",
        "diffusers",
        LTX_DIFFUSERS
        | SOUND
        | {"audio_time_embed.linear.weight": (6 * D, D), "audio_proj_in.weight": (D, 128)},
    ),
    ("t5", "core", {"encoder.block.0.layer.0.SelfAttention.q.weight": (D, D)}),
    (
        "t5",
        "wan",
        {
            "token_embedding.weight": (512, D),
            "blocks.0.attn.q.weight": (D, D),
            "blocks.0.ffn.gate.0.weight": (D, D),
        },
    ),
    (
        "clip",
        "core",
        {
            "text_model.embeddings.token_embedding.weight": (512, D),
            "text_model.encoder.layers.0.self_attn.q_proj.weight": (D, D),
        },
    ),
    ("clip_vision", "core", {"vision_model.encoder.layers.0.self_attn.q_proj.weight": (D, D)}),
    (
        "clip_vision",
        "wan",
        {
            "visual.transformer.0.attn.to_qkv.weight": (3 * D, D),
            "visual.patch_embedding.weight": (D, 3, 14, 14),
        },
    ),
    ("qwen_vl", "core", {"model.layers.0.self_attn.o_proj.weight": (D, D)}),
    (
        "qwen_vl",
        "core",  # Gemma 3, whose file holds a vision tower too
        {
            "model.layers.0.self_attn.o_proj.weight": (D, D),
            "model.embed_tokens.weight": (512, D),
            "vision_model.encoder.layers.0.self_attn.q_proj.weight": (D, D),
        },
    ),
    (
        "qwen_vl",
        "nested",
        {
            "model.language_model.layers.0.self_attn.o_proj.weight": (D, D),
            "model.language_model.layers.0.self_attn.k_proj.bias": (512,),
        },
    ),
]

# models that resemble one of ours by name and are another
OTHERS: dict[str, Shapes] = {
    "OmniGen 2": LUMINA_DIFFUSERS | {"image_index_embedding": (5, D)},
    "ControlNet of Qwen-Image": QWEN | {"controlnet_blocks.0.weight": (D, D)},
    "ControlNet of SD3 in Diffusers": {
        name: shape for name, shape in SD3_DIFFUSERS.items() if name != "norm_out.linear.weight"
    },
    "ControlNet of FLUX in Diffusers": {
        name: shape for name, shape in FLUX_DIFFUSERS.items() if name != "norm_out.linear.weight"
    },
    "Hunyuan3D": {"latent_in.weight": (D, 64), f"{KEY_NORM}.scale": (64,)},
    "PixArt": {
        "adaln_single.linear.weight": (6 * D, D),
        "pos_embed.proj.weight": (D, 4, 2, 2),
        **LTX,
    },
}

SPEC_FAMILIES = {
    "chroma1-hd": "chroma",
    "chroma1-radiance": "chroma",
    "clip-g": "clip",
    "clip-l": "clip",
    "clip-vision-h": "clip_vision",
    "flux1-dev": "flux",
    "flux1-schnell": "flux",
    "flux2-dev": "flux2",
    "flux2-klein-4b": "flux2",
    "flux2-klein-9b": "flux2",
    "gemma-2-2b": "qwen_vl",
    "gemma-3-12b": "qwen_vl",
    "hidream-i1": "hidream",
    "hunyuan-video": "hunyuan_video",
    "hunyuan-video-1.5": "hunyuan_video",
    "krea-2": "krea2",
    "llama-3.1-8b": "qwen_vl",
    "ltx-2": "ltx2",
    "ltx-video-0.9-13b": "ltx_video",
    "ltx-video-0.9-2b": "ltx_video",
    "lumina-2": "lumina2",
    "mistral-small-flux2": "qwen_vl",
    "qwen-image-2.1": "qwen_image_21",
    "qwen-image-2512": "qwen_image",
    "qwen-image-edit-2511": "qwen_image",
    "qwen2.5-vl-7b": "qwen_vl",
    "qwen3-4b": "qwen_vl",
    "qwen3-8b": "qwen_vl",
    "sd3.5-large": "sd3",
    "sd3.5-medium": "sd3",
    "t5-xxl": "t5",
    "umt5-xxl": "t5",
    "wan2.1-i2v-14b-480p": "wan",
    "wan2.1-t2v-1.3b": "wan",
    "wan2.1-t2v-14b": "wan",
    "wan2.1-vace-14b": "wan",
    "wan2.2-animate-14b": "wan",
    "wan2.2-fun-control-14b": "wan",
    "wan2.2-i2v-14b": "wan",
    "wan2.2-s2v-14b": "wan",
    "wan2.2-t2v-14b": "wan",
    "wan2.2-ti2v-5b": "wan",
    "z-image-turbo": "z_image",
}
