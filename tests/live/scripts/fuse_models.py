"""Tiny models of every diffusion family, as core's configuration classes take their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """Core's configuration class and its sizes; our family.

    `unmeant`: names in core's key map for rows that another model has there (regular expression).
    """

    config: str
    family: str
    sizes: Mapping[str, object]
    unmeant: str = ""


_FLUX = {
    "in_channels": 16, "patch_size": 2, "out_channels": 16, "context_in_dim": 48,
    "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 4, "depth": 1, "depth_single_blocks": 1,
    "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True, "txt_ids_dims": [],
}  # fmt: skip
_HUNYUAN = _FLUX | {
    "image_model": "hunyuan_video", "patch_size": [1, 2, 2], "vec_in_dim": 32, "theta": 256,
    "guidance_embed": True, "byt5": False, "meanflow": False, "use_cond_type_embedding": False,
    "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
del _HUNYUAN["txt_ids_dims"]
_NEXT_DIT = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 60, "n_layers": 1,
    "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 48,
    "axes_dims": [10, 10, 10], "axes_lens": [8, 8, 8], "rope_theta": 256.0,
    "ffn_dim_multiplier": 1.0, "qk_norm": True,
}  # fmt: skip
_LTX = {"num_layers": 1, "attention_head_dim": 2, "cross_attention_dim": 64,
        "caption_channels": 48, "in_channels": 16}  # fmt: skip

MODELS = {
    "flux": Entry("Flux", "flux", _FLUX | {
        "image_model": "flux", "vec_in_dim": 32, "guidance_embed": True}),
    # core has FLUX.1's rows for the MLP of a single block, which is gated and larger here
    "flux2": Entry("Flux2", "flux2", _FLUX | {
        "image_model": "flux2", "vec_in_dim": None, "mlp_ratio": 3.0, "patch_size": 1,
        "qkv_bias": False, "guidance_embed": True, "axes_dim": [4] * 4, "txt_ids_dims": [3],
        "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
    }, ".*single_transformer_blocks.*proj_mlp"),
    "chroma": Entry("Chroma", "chroma", _FLUX | {
        "image_model": "chroma", "vec_in_dim": None, "in_dim": 16, "out_dim": 64,
        "hidden_dim": 32, "n_layers": 1}),
    "wan": Entry("WAN21_I2V", "wan", {
        "image_model": "wan2.1", "model_type": "i2v", "dim": 64, "ffn_dim": 96, "num_heads": 4,
        "num_layers": 1, "in_dim": 36, "out_dim": 16, "text_dim": 48, "freq_dim": 32,
        "patch_size": (1, 2, 2), "window_size": (-1, -1), "qk_norm": True,
        "cross_attn_norm": True, "eps": 1e-6}),
    "qwen_image": Entry("QwenImage", "qwen_image", {
        "image_model": "qwen_image", "in_channels": 64, "num_layers": 1,
        "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 48,
        "axes_dims_rope": (4, 6, 6)}),
    "z_image": Entry("ZImage", "z_image", _NEXT_DIT | {"z_image_modulation": True}),
    # core has Z-Image's rows for q, k and v, of which Lumina 2 has fewer of the last two
    "lumina2": Entry(
        "Lumina2", "lumina2", _NEXT_DIT | {"n_heads": 2, "n_kv_heads": 1},
        r".*attention[._]to_[qkv]$"),
    "hunyuan_video": Entry("HunyuanVideo", "hunyuan_video", _HUNYUAN),
    "hunyuan_video_1.5": Entry("HunyuanVideo15", "hunyuan_video", _HUNYUAN | {
        "patch_size": [1, 1, 1], "vec_in_dim": None, "guidance_embed": False, "meanflow": True,
        "depth_single_blocks": 0, "use_cond_type_embedding": True, "vision_in_dim": 32,
        "meanflow_sum": True}),
    "sd3": Entry("SD3", "sd3", {
        "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None,
        "adm_in_channels": 32, "num_patches": 16, "pos_embed_max_size": 4, "qk_norm": "rms",
        "pos_embed_scaling_factor": None, "x_block_self_attn_layers": [0],
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": 48, "out_features": 128}}}),
    "hidream": Entry("HiDream", "hidream", {
        "image_model": "hidream", "attention_head_dim": 16, "axes_dims_rope": [4, 6, 6],
        "caption_channels": [48, 48], "max_resolution": [8, 8], "in_channels": 16,
        "out_channels": 16, "patch_size": 2, "llama_layers": [0, 1], "num_attention_heads": 4,
        "num_routed_experts": 4, "num_activated_experts": 2, "num_layers": 1,
        "num_single_layers": 1, "text_emb_dim": 32}),
    "ltx_video": Entry("LTXV", "ltx_video", _LTX | {"image_model": "ltxv"}),
    "ltx2": Entry("LTXAV", "ltx2", _LTX | {
        "image_model": "ltxav", "audio_in_channels": 16, "audio_attention_head_dim": 1,
        "audio_cross_attention_dim": 32, "connector_attention_head_dim": 2,
        "connector_num_layers": 1, "cross_attention_adaln": True, "apply_gated_attention": True}),
    "krea2": Entry("Krea2", "krea2", {
        "image_model": "krea2", "features": 64, "tdim": 32, "txtdim": 48, "heads": 4,
        "kvheads": 2, "layers": 1, "channels": 16, "txtlayers": 3, "txtheads": 3,
        "txtkvheads": 3}),
}  # fmt: skip
