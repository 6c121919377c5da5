"""The public models that have a spec: for each its file and the ComfyUI class with its arguments.

The arguments are those of the public configurations; `make_specs.py` makes the specs from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Public:
    """A public model: `dtype` and `billions` of parameters as published in `file`.

    `path`: ComfyUI's class; with `config` in the arguments it is a text encoder or a vision tower.
    `beside`: what the file holds and the class lacks. `header`: the file's own metadata.
    """

    title: str
    file: str
    dtype: str
    billions: float
    path: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    beside: Shapes = field(default_factory=dict)
    header: Mapping[str, str] = field(default_factory=dict)


_FLUX_BLOCKS = {"in_channels": 16, "out_channels": 16, "mlp_ratio": 4.0, "hidden_size": 3072,
                "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "context_in_dim": 4096,
                "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True,
                "txt_ids_dims": []}  # fmt: skip
FLUX = _FLUX_BLOCKS | {"vec_in_dim": 768}
FLUX2 = {
    "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "mlp_ratio": 3.0, "theta": 2000,
    "axes_dim": [32] * 4, "patch_size": 1, "qkv_bias": False, "txt_ids_dims": [3],
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
}  # fmt: skip
CHROMA = _FLUX_BLOCKS | {
    "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120,
    "n_layers": 5, "vec_in_dim": None,
}  # fmt: skip
RADIANCE = CHROMA | {
    "in_channels": 3, "out_channels": 3, "patch_size": 16, "nerf_hidden_size": 64,
    "nerf_mlp_ratio": 4, "nerf_depth": 4, "nerf_max_freqs": 8, "nerf_tile_size": 512,
    "nerf_final_head_type": "conv", "nerf_embedder_dtype": None, "use_x0": True,
    "use_sequential_txt_ids": False,
}  # fmt: skip
HUNYUAN = {
    "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2], "vec_in_dim": 768,
    "context_in_dim": 4096, "hidden_size": 3072, "num_heads": 24, "mlp_ratio": 4.0, "depth": 20,
    "depth_single_blocks": 40, "axes_dim": [16, 56, 56], "theta": 256, "qkv_bias": True,
    "guidance_embed": True, "byt5": False, "meanflow": False, "use_cond_type_embedding": False,
    "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
HUNYUAN_15 = HUNYUAN | {
    "in_channels": 65, "out_channels": 32, "patch_size": [1, 1, 1], "vec_in_dim": None,
    "context_in_dim": 3584, "hidden_size": 2048, "num_heads": 16, "depth": 54,
    "depth_single_blocks": 0, "guidance_embed": False, "byt5": True, "vision_in_dim": 1152,
    "use_cond_type_embedding": True, "meanflow_sum": True,
}  # fmt: skip
NEXT_DIT = {"patch_size": 2, "in_channels": 16, "n_refiner_layers": 2, "qk_norm": True}
Z_IMAGE = NEXT_DIT | {
    "dim": 3840, "n_layers": 30, "n_heads": 30, "n_kv_heads": 30, "cap_feat_dim": 2560,
    "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True, "pad_tokens_multiple": 32,
}  # fmt: skip
LUMINA_2 = NEXT_DIT | {
    "dim": 2304, "n_layers": 26, "n_heads": 24, "n_kv_heads": 8, "cap_feat_dim": 2304,
    "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512], "ffn_dim_multiplier": 4.0,
}  # fmt: skip
SD35 = {"input_size": None, "patch_size": 2, "in_channels": 16, "out_channels": 16,
        "adm_in_channels": 2048, "pos_embed_scaling_factor": None, "qk_norm": "rms"}  # fmt: skip
HIDREAM = {
    "attention_head_dim": 128, "axes_dims_rope": [64, 32, 32], "caption_channels": [4096, 4096],
    "max_resolution": [128, 128], "in_channels": 16, "out_channels": 16, "patch_size": 2,
    "llama_layers": [*range(32), *[31] * 16], "num_attention_heads": 20, "num_routed_experts": 4,
    "num_activated_experts": 2, "num_layers": 16, "num_single_layers": 32, "text_emb_dim": 2048,
}  # fmt: skip
LTX_13B = {"num_layers": 48, "attention_head_dim": 128, "cross_attention_dim": 4096}
WAN_14B = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40, "out_dim": 16}
WAN_5B = {"dim": 3072, "ffn_dim": 14336, "num_heads": 24, "num_layers": 30, "in_dim": 48}
WAN_1B = {"dim": 1536, "ffn_dim": 8960, "num_heads": 12, "num_layers": 30, "out_dim": 16}

_FLUX, _LLAMA = "comfy.ldm.flux.model.Flux", "comfy.text_encoders.llama."
_WAN, _QWEN = "comfy.ldm.wan.model.WanModel", "comfy.ldm.qwen_image.model."
_HUNYUAN, _NEXT = "comfy.ldm.hunyuan_video.model.HunyuanVideo", "comfy.ldm.lumina.model.NextDiT"
_MMDIT = "comfy.ldm.modules.diffusionmodules.mmdit.MMDiT"


def _sd35(dim: int, side: int, double_attention: int) -> dict[str, object]:
    """Width, side of the position table, blocks with a second attention."""
    table = {"in_features": 4096, "out_features": dim}
    return SD35 | {
        "depth": dim // 64, "num_patches": side * side, "pos_embed_max_size": side,
        "x_block_self_attn_layers": list(range(double_attention)),
        "context_embedder_config": {"target": "torch.nn.Linear", "params": table},
    }  # fmt: skip


def _flux2(width: int, context: int, double: int, single: int, guidance: bool) -> dict[str, object]:
    return FLUX2 | {
        "hidden_size": width, "num_heads": width // 128, "context_in_dim": context, "depth": double,
        "depth_single_blocks": single, "guidance_embed": guidance,
    }  # fmt: skip


DIFFUSION = {
    "flux1-dev": Public(
        "FLUX.1 dev", "flux1-dev.safetensors", "BF16", 11.90, _FLUX,
        FLUX | {"guidance_embed": True}),
    "flux1-schnell": Public(
        "FLUX.1 schnell", "flux1-schnell.safetensors", "BF16", 11.89, _FLUX,
        FLUX | {"guidance_embed": False}),
    "flux2-dev": Public(
        "FLUX.2 dev", "flux2-dev.safetensors", "BF16", 32.22, _FLUX,
        _flux2(6144, 15360, 8, 48, guidance=True)),
    "flux2-klein-4b": Public(
        "FLUX.2 klein 4B", "flux-2-klein-4b.safetensors", "BF16", 3.88, _FLUX,
        _flux2(3072, 7680, 5, 20, guidance=False)),
    "flux2-klein-9b": Public(
        "FLUX.2 klein 9B", "flux-2-klein-9b.safetensors", "BF16", 9.08, _FLUX,
        _flux2(4096, 12288, 8, 24, guidance=False)),
    "chroma1-hd": Public(
        "Chroma1 HD", "Chroma1-HD.safetensors", "BF16", 8.90, "comfy.ldm.chroma.model.Chroma",
        CHROMA),
    "chroma1-radiance": Public(
        "Chroma1 Radiance", "chroma-radiance-x0.safetensors", "BF16", 9.51,
        "comfy.ldm.chroma_radiance.model.ChromaRadiance", RADIANCE),
    "krea-2": Public(
        "Krea 2 turbo or raw", "krea2_turbo_bf16.safetensors", "BF16", 12.82,
        "comfy.ldm.krea2.model.SingleStreamDiT"),
    "qwen-image-2512": Public(
        "Qwen-Image 2512", "qwen_image_2512_bf16.safetensors", "BF16", 20.43,
        f"{_QWEN}QwenImageTransformer2DModel"),
    "qwen-image-edit-2511": Public(
        "Qwen-Image-Edit 2511", "qwen_image_edit_2511_bf16.safetensors", "BF16", 20.43,
        f"{_QWEN}QwenImageTransformer2DModel", {"default_ref_method": "index_timestep_zero"}),
    "z-image-turbo": Public(
        "Z-Image turbo or base", "z_image_turbo_bf16.safetensors", "BF16", 6.15, _NEXT, Z_IMAGE),
    "lumina-2": Public(
        "Lumina Image 2", "lumina_2_model_bf16.safetensors", "BF16", 2.61, _NEXT, LUMINA_2),
    "sd3.5-medium": Public(
        "Stable Diffusion 3.5 medium", "sd3.5_medium.safetensors", "F16", 2.47, _MMDIT,
        _sd35(1536, 384, 13)),
    "sd3.5-large": Public(
        "Stable Diffusion 3.5 large", "sd3.5_large.safetensors", "F16", 8.15, _MMDIT,
        _sd35(2432, 192, 0)),
    "hidream-i1": Public(
        "HiDream I1 full, dev or fast", "hidream_i1_full_fp16.safetensors", "F16", 17.11,
        "comfy.ldm.hidream.model.HiDreamImageTransformer2DModel", HIDREAM),
    "hunyuan-video": Public(
        "HunyuanVideo", "hunyuan_video_t2v_720p_bf16.safetensors", "BF16", 12.82, _HUNYUAN,
        HUNYUAN),
    "hunyuan-video-1.5": Public(
        "HunyuanVideo 1.5, T2V or I2V, 480p or 720p", "hunyuanvideo1.5_720p_t2v_fp16.safetensors",
        "F16", 8.33, _HUNYUAN, HUNYUAN_15),
    "ltx-video-0.9-2b": Public(
        "LTX-Video 0.9.x 2B", "ltxv-2b-0.9.8-distilled.safetensors", "BF16", 1.92,
        "comfy.ldm.lightricks.model.LTXVModel"),
    "ltx-video-0.9-13b": Public(
        "LTX-Video 0.9.7 or 0.9.8 13B", "ltxv-13b-0.9.8-dev.safetensors", "BF16", 13.04,
        "comfy.ldm.lightricks.model.LTXVModel", LTX_13B),
    "ltx-2": Public(
        "LTX-2 19B", "ltx-2-19b-dev.safetensors", "BF16", 19.59,
        "comfy.ldm.lightricks.av_model.LTXAVModel"),
    "wan2.1-t2v-1.3b": Public(
        "Wan 2.1 T2V 1.3B", "wan2.1_t2v_1.3B_fp16.safetensors", "F16", 1.42, _WAN,
        WAN_1B | {"in_dim": 16}),
    "wan2.1-t2v-14b": Public(
        "Wan 2.1 T2V 14B", "wan2.1_t2v_14B_fp16.safetensors", "F16", 14.29, _WAN,
        WAN_14B | {"in_dim": 16}),
    "wan2.1-i2v-14b-480p": Public(
        "Wan 2.1 I2V 14B 480p", "wan2.1_i2v_480p_14B_fp16.safetensors", "F16", 16.40, _WAN,
        WAN_14B | {"in_dim": 36, "model_type": "i2v"}),
    "wan2.1-vace-14b": Public(
        "Wan 2.1 VACE 14B", "wan2.1_vace_14B_fp16.safetensors", "F16", 17.34,
        "comfy.ldm.wan.model.VaceWanModel",
        WAN_14B | {"in_dim": 16, "vace_layers": 8, "vace_in_dim": 96}),
    "wan2.2-t2v-14b": Public(
        "Wan 2.2 T2V 14B, high or low noise", "wan2.2_t2v_high_noise_14B_fp16.safetensors", "F16",
        14.29, _WAN, WAN_14B | {"in_dim": 16}),
    "wan2.2-i2v-14b": Public(
        "Wan 2.2 I2V 14B, high or low noise", "wan2.2_i2v_high_noise_14B_fp16.safetensors", "F16",
        14.29, _WAN, WAN_14B | {"in_dim": 36}),
    "wan2.2-fun-control-14b": Public(
        "Wan 2.2 Fun Control 14B, high or low noise",
        "wan2.2_fun_control_high_noise_14B_bf16.safetensors", "BF16", 14.29, _WAN,
        WAN_14B | {"in_dim": 52, "in_dim_ref_conv": 16}),
    "wan2.2-animate-14b": Public(
        "Wan 2.2 Animate 14B", "wan2.2_animate_14B_bf16.safetensors", "BF16", 17.27,
        "comfy.ldm.wan.model_animate.AnimateWanModel", WAN_14B | {"in_dim": 36}),
    "wan2.2-s2v-14b": Public(
        "Wan 2.2 S2V 14B", "wan2.2_s2v_14B_bf16.safetensors", "BF16", 16.30,
        "comfy.ldm.wan.model.WanModel_S2V", WAN_14B | {"in_dim": 16}),
    "wan2.2-ti2v-5b": Public(
        "Wan 2.2 TI2V 5B", "wan2.2_ti2v_5B_fp16.safetensors", "F16", 5.00, _WAN,
        WAN_5B | {"out_dim": 48}),
}  # fmt: skip

ENCODERS = {
    "clip-l": Public(
        "CLIP-L text encoder", "clip_l.safetensors", "F16", 0.12, "comfy.clip_model.CLIPTextModel",
        {"config": "comfy/sd1_clip_config.json"}),
    "clip-g": Public(
        "CLIP-G text encoder", "clip_g.safetensors", "F16", 0.69, "comfy.clip_model.CLIPTextModel",
        {"config": "comfy/clip_config_bigg.json"}),
    "clip-vision-h": Public(
        "CLIP ViT-H vision tower", "clip_vision_h.safetensors", "F16", 0.63,
        "comfy.clip_model.CLIPVisionModelProjection",
        {"config": "comfy/clip_vision_config_h.json"}),
    "t5-xxl": Public(
        "T5-XXL encoder", "t5xxl_fp16.safetensors", "F16", 4.76, "comfy.text_encoders.t5.T5",
        {"config": "comfy/text_encoders/t5_config_xxl.json"}),
    "umt5-xxl": Public(
        "UMT5-XXL encoder", "umt5_xxl_fp16.safetensors", "F16", 5.68, "comfy.text_encoders.t5.T5",
        {"config": "comfy/text_encoders/umt5_config_xxl.json"}),
    "qwen2.5-vl-7b": Public(
        "Qwen2.5-VL 7B with its vision tower", "qwen_2.5_vl_7b.safetensors", "BF16", 8.29,
        f"{_LLAMA}Qwen25_7BVLI", {"config": None}, {"lm_head.weight": (152064, 3584)}),
    "qwen3-4b": Public(
        "Qwen3 4B", "qwen_3_4b.safetensors", "BF16", 4.02, f"{_LLAMA}Qwen3_4B", {"config": None}),
    "qwen3-8b": Public(
        "Qwen3 8B", "qwen_3_8b.safetensors", "BF16", 8.19, f"{_LLAMA}Qwen3_8B", {"config": None}),
    "mistral-small-flux2": Public(
        "Mistral Small 3.2, the 30 blocks that FLUX.2 reads",
        "mistral_3_small_flux2_bf16.safetensors", "BF16", 17.34, f"{_LLAMA}Mistral3Small24B",
        {"config": {"num_hidden_layers": 30, "final_norm": False}}),
    "llama-3.1-8b": Public(
        "Llama 3.1 8B", "Llama-3.1-8B-Instruct/model.safetensors.index.json", "BF16", 8.03,
        f"{_LLAMA}Llama2", {"config": {"vocab_size": 128256}},
        {"lm_head.weight": (128256, 4096)}),
    "gemma-2-2b": Public(
        "Gemma 2 2B", "gemma_2_2b_fp16.safetensors", "F16", 2.61, f"{_LLAMA}Gemma2_2B",
        {"config": None}),
    "gemma-3-12b": Public(
        "Gemma 3 12B with its vision tower", "gemma_3_12B_it.safetensors", "BF16", 12.19,
        f"{_LLAMA}Gemma3_12B", {"config": None}),
}  # fmt: skip

# made from the published header alone: this version of ComfyUI has no class for it
_BLOCK_21 = {
    **{f"attn.{x}.weight": (4096, 4096) for x in ("to_q", "to_k", "to_v", "to_out.0")},
    **{f"attn.norm_{x}.weight": (128,) for x in "qk"},
    "img_mlp.gate_up.weight": (24576, 4096),
    "img_mlp.out.weight": (4096, 12288),
}
QWEN_IMAGE_21 = {
    "img_in.weight": (4096, 64),
    "modulation.1.weight": (16384, 4096),
    "norm_out.linear.weight": (4096, 4096),
    "proj_out.weight": (64, 4096),
    "time_text_embed.timestep_embedder.linear_1.weight": (4096, 256),
    "time_text_embed.timestep_embedder.linear_2.weight": (4096, 4096),
    "txt_in.in_layer.weight": (4096, 4096),
    "txt_in.out_layer.weight": (4096, 4096),
    "txt_in.text_norm.weight": (4096,),
    **{
        f"transformer_blocks.{block}.{name}": shape
        for block in range(32)
        for name, shape in _BLOCK_21.items()
    },
}
FROM_HEADER = {
    "qwen-image-2.1": Public(
        "Qwen-Image 2.1", "qwen_image_2.1_bf16.safetensors", "BF16", 7.12, "", {}, QWEN_IMAGE_21),
}  # fmt: skip
MODELS = DIFFUSION | ENCODERS | FROM_HEADER
