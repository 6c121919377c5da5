"""The sizes that the stand-in models have where ComfyUI fixes a size of its own. Data alone.

Read by the pack beside, inside the test server, and by `stand_ins`, which writes the files.
"""

from __future__ import annotations

from typing import Any

WIDTH, FEED = 256, 768  # of transformers; a layer below 256 x 128 would fall under 16 KiB
TEXT = 128  # of text encoders, and so of the text that reaches the transformers
HEAD = 128

# image_model of ComfyUI's detection: what is added to what it detected
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "qwen_image": {"num_attention_heads": WIDTH // HEAD, "joint_attention_dim": TEXT},
    "wan2.1": {"text_dim": TEXT},
    "lumina2": {
        "n_heads": WIDTH // HEAD, "n_kv_heads": WIDTH // HEAD, "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8.0 / 3.0,
        "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
    },
    "chroma": {
        "hidden_size": WIDTH, "context_in_dim": TEXT, "num_heads": WIDTH // HEAD,
        "out_dim": WIDTH, "hidden_dim": WIDTH,  # of the guidance network
    },
}  # fmt: skip

_T5 = {"d_model": TEXT, "d_ff": 256, "num_heads": 2, "num_layers": 1}
_QWEN = {"hidden_size": TEXT, "intermediate_size": 256, "num_attention_heads": 4}

# model option of ComfyUI's text encoders: sizes
ENCODERS: dict[str, dict[str, int]] = {
    "t5xxl_model_config": _T5,
    "umt5xxl_model_config": {**_T5, "vocab_size": 32128},
    # ComfyUI starts CLIP-L's from this one
    "model_config": {"hidden_size": TEXT, "intermediate_size": 4 * TEXT, "num_hidden_layers": 2,
                     "num_attention_heads": 2},
    "qwen25_7b_model_config": {**_QWEN, "num_hidden_layers": 1},
    "qwen3_4b_model_config": {**_QWEN, "num_key_value_heads": 4, "num_hidden_layers": 28},
    "qwen3vl_4b_model_config": {**_QWEN, "num_key_value_heads": 4, "num_hidden_layers": 3},
    "qwen3_8b_model_config": {**_QWEN, "num_attention_heads": 2,
                               "num_key_value_heads": 2, "num_hidden_layers": 36},
}  # fmt: skip

# the vision towers of Qwen2.5-VL and Qwen3-VL
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "num_layers": 1}
QWEN3_VISION = {
    "hidden_size": 64, "intermediate_size": 128, "depth": 3, "deepstack_visual_indexes": [0, 1, 2],
}  # fmt: skip
QWEN3_VISION_COMMON = {"num_heads": 2}

# vision encoders by ComfyUI's model type; the width of each stays
TOWERS = {
    "siglip_vision_model": {"num_hidden_layers": 2, "intermediate_size": 256},
    "clip_vision_model": {"num_hidden_layers": 2, "intermediate_size": 256},
}

# pixels of a side: nodes that enlarge a picture to a megapixel stop at this area
PICTURE = 128
