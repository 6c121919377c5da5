"""A public model and a scheme in, the published files that hold it out: a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Files of one model in one scheme, and the repository on Hugging Face that has them."""

    files: tuple[str, ...]
    repository: str


_WAN22 = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"
_QWEN = "Comfy-Org/Qwen-Image-Edit_ComfyUI"

PUBLISHED: Mapping[tuple[str, str], Published] = {
    ("flux1-dev", "fp8"): Published(("flux1-dev-fp8.safetensors",), "Comfy-Org/flux1-dev"),
    ("flux1-schnell", "fp8"): Published(
        ("flux1-schnell-fp8.safetensors",), "Comfy-Org/flux1-schnell"
    ),
    ("qwen-image-edit-2511", "fp8"): Published(
        ("qwen_image_edit_2511_fp8mixed.safetensors",), _QWEN
    ),
    ("qwen-image-edit-2511", "int8_convrot"): Published(
        ("qwen_image_edit_2511_int8_convrot.safetensors",), _QWEN
    ),
    ("wan2.1-i2v-14b-480p", "fp8"): Published(
        ("Wan2_1-I2V-14B-480p_fp8_e4m3fn_scaled_KJ.safetensors",), "Kijai/WanVideo_comfy_fp8_scaled"
    ),
    ("wan2.2-i2v-14b", "fp8"): Published(
        (
            "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors",
            "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors",
        ),
        _WAN22,
    ),
    ("wan2.2-t2v-14b", "fp8"): Published(
        (
            "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
            "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors",
        ),
        _WAN22,
    ),
}
