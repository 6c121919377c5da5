"""The public files that the workflows name: folder, address, size, bits. One table.

Sizes are those that the repositories state, or follow from the headers in engine/specs; where
neither is known there is none. GB are 10^9 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..engine.advise.subject import public

HUB = "https://huggingface.co"
DIFFUSION, TEXT, LORA, VAE = "diffusion_models", "text_encoders", "loras", "vae"
VISION, STYLE = "clip_vision", "style_models"


@dataclass(frozen=True)
class File:
    """One file. `bits` of a weight. `gated`: the licence must be accepted before it downloads."""

    name: str
    directory: str
    url: str
    bits: int = 16
    size_gb: float | None = None
    gated: bool = False

    @property
    def link(self) -> dict[str, str]:
        """What ComfyUI's dialog for missing models reads."""
        return {"name": self.name, "url": self.url, "directory": self.directory}


def _spec(name: str, scheme: str = "none") -> float:
    """Size of a public model whose header is known, in GB."""
    subject = public(name)
    size = subject.stored_bytes if scheme == "none" else subject.sizes(scheme).weight_bytes
    return round(size / 1e9, 1)


_QWEN_EDIT = "Comfy-Org/Qwen-Image-Edit_ComfyUI/resolve/main/split_files"
_QWEN = "Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files"
_FLUX = "Comfy-Org/flux1-dev/resolve/main"
_FLUX_TEXT = "comfyanonymous/flux_text_encoders/resolve/main"
_WAN22 = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
_WAN21 = "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
_Z_IMAGE = "Comfy-Org/z_image_turbo/resolve/main/split_files"
_KLEIN = "Comfy-Org/flux2-klein/resolve/main/split_files"
_LIGHTX2V = "lightx2v/Wan2.1-Distill-Models/resolve/main"
_ENCODERS = "lightx2v/Encoders-Lightx2v/resolve/main"
_CLIP_H = "models_clip_open-clip-xlm-roberta-large-vit-huge-14"

# name, folder, place on the hub without the name, bits, GB
_Row = tuple[str, str, str, int, float | None]
_ROWS: tuple[_Row, ...] = (
    # Qwen-Image-Edit
    ("qwen_image_edit_2511_bf16.safetensors", DIFFUSION, f"{_QWEN_EDIT}/diffusion_models", 16,
     _spec("qwen-image-edit-2511")),
    ("qwen_image_edit_2511_int8_convrot.safetensors", DIFFUSION, f"{_QWEN_EDIT}/diffusion_models",
     8, _spec("qwen-image-edit-2511", "int8_convrot")),
    ("qwen_image_edit_2511_fp8mixed.safetensors", DIFFUSION, f"{_QWEN_EDIT}/diffusion_models", 8,
     _spec("qwen-image-edit-2511", "fp8")),
    ("Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors", LORA,
     "lightx2v/Qwen-Image-Edit-2511-Lightning/resolve/main", 16, None),
    ("Qwen_Image_Edit_2511-SYSTMS_INFL8.safetensors", LORA, "", 16, None),
    ("qwen_2.5_vl_7b.safetensors", TEXT, f"{_QWEN}/text_encoders", 16, 15.5),
    ("qwen_2.5_vl_7b_fp8_scaled.safetensors", TEXT, f"{_QWEN}/text_encoders", 8, None),
    ("qwen_image_vae.safetensors", VAE, f"{_QWEN}/vae", 16, None),
    # FLUX.1
    ("flux1-dev.safetensors", DIFFUSION, _FLUX, 16, _spec("flux1-dev")),
    ("flux1-schnell.safetensors", DIFFUSION, "Comfy-Org/flux1-schnell/resolve/main", 16,
     _spec("flux1-schnell")),
    ("flux1-fill-dev.safetensors", DIFFUSION, f"{_FLUX}/split_files/diffusion_models", 16, None),
    ("flux1-canny-dev.safetensors", DIFFUSION, f"{_FLUX}/split_files/diffusion_models", 16, None),
    ("flux1-dev-kontext_fp8_scaled.safetensors", DIFFUSION,
     "Comfy-Org/flux1-kontext-dev_ComfyUI/resolve/main/split_files/diffusion_models", 8, None),
    ("Hyper-FLUX.1-dev-8steps-lora.safetensors", LORA, "ByteDance/Hyper-SD/resolve/main", 16, None),
    ("flux_dev_frostinglane_araminta_k.safetensors", LORA,
     "alvdansen/frosting_lane_flux/resolve/main", 16, None),
    ("flux1-redux-dev.safetensors", STYLE, "Comfy-Org/Flux1-Redux-Dev/resolve/main", 16, None),
    ("sigclip_vision_patch14_384.safetensors", VISION,
     "Comfy-Org/sigclip_vision_384/resolve/main", 16, None),
    ("t5xxl_fp16.safetensors", TEXT, _FLUX_TEXT, 16, _spec("t5-xxl")),
    ("t5xxl_fp8_e4m3fn_scaled.safetensors", TEXT, _FLUX_TEXT, 8, None),
    ("clip_l.safetensors", TEXT, _FLUX_TEXT, 16, _spec("clip-l")),
    ("ae.safetensors", VAE, f"{_Z_IMAGE}/vae", 16, None),
    # Wan
    ("wan2.2_i2v_high_noise_14B_fp16.safetensors", DIFFUSION, f"{_WAN22}/diffusion_models", 16,
     28.6),
    ("wan2.2_i2v_low_noise_14B_fp16.safetensors", DIFFUSION, f"{_WAN22}/diffusion_models", 16,
     28.6),
    ("wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors", LORA, f"{_WAN22}/loras", 16,
     None),
    ("wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors", LORA, f"{_WAN22}/loras", 16, None),
    ("wan2.1_t2v_14B_bf16.safetensors", DIFFUSION, f"{_WAN21}/diffusion_models", 16,
     _spec("wan2.1-t2v-14b")),
    ("Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors", LORA,
     "Kijai/WanVideo_comfy/resolve/main", 16, None),
    ("umt5_xxl_fp16.safetensors", TEXT, f"{_WAN21}/text_encoders", 16, 11.4),
    ("wan_2.1_vae.safetensors", VAE, f"{_WAN22}/vae", 16, None),
    ("wan2.1_i2v_480p_int8_lightx2v_4step.safetensors", DIFFUSION, _LIGHTX2V, 8,
     _spec("wan2.1-i2v-14b-480p", "int8")),
    ("wan2.1_i2v_720p_scaled_fp8_e4m3_lightx2v_4step.safetensors", DIFFUSION, _LIGHTX2V, 8,
     _spec("wan2.1-i2v-14b-480p", "fp8_row")),
    ("models_t5_umt5-xxl-enc-int8.pth", TEXT, _ENCODERS, 8, None),
    ("models_t5_umt5-xxl-enc-fp8.pth", TEXT, _ENCODERS, 8, None),
    (f"{_CLIP_H}-int8.pth", VISION, _ENCODERS, 8, None),
    (f"{_CLIP_H}-fp8.pth", VISION, _ENCODERS, 8, None),
    # FLUX.2 klein, Z-Image, Qwen3-VL
    ("flux-2-klein-4b.safetensors", DIFFUSION, f"{_KLEIN}/diffusion_models", 16,
     _spec("flux2-klein-4b")),
    ("flux2-vae.safetensors", VAE, "Comfy-Org/flux2-dev/resolve/main/split_files/vae", 16, None),
    ("z_image_turbo_bf16.safetensors", DIFFUSION, f"{_Z_IMAGE}/diffusion_models", 16,
     _spec("z-image-turbo")),
    ("qwen_3_4b.safetensors", TEXT, f"{_Z_IMAGE}/text_encoders", 16, _spec("qwen3-4b")),
    ("qwen3vl_4b_bf16.safetensors", TEXT, "Comfy-Org/Qwen3-VL/resolve/main/text_encoders", 16,
     None),
)  # fmt: skip
_GATED = (
    ("flux1-kontext-dev.safetensors", DIFFUSION,
     "black-forest-labs/FLUX.1-Kontext-dev/resolve/main", 16, 23.8),
    ("flux1-depth-dev.safetensors", DIFFUSION,
     "black-forest-labs/FLUX.1-Depth-dev/resolve/main", 16, None),
)  # fmt: skip

# published under another name than the one that users keep it by
_ADDRESSES = {
    "Qwen_Image_Edit_2511-SYSTMS_INFL8.safetensors": "systms/SYSTMS-INFL8-LoRA-Qwen-Image-Edit-2511"
    "/resolve/main/SYSTMS_INFL8_LoRA_Qwen_Image_Edit_2511.safetensors",
}

FILES: Mapping[str, File] = {
    name: File(
        name, directory, f"{HUB}/{_ADDRESSES.get(name, f'{place}/{name}')}", bits, size, gated
    )
    for rows, gated in ((_ROWS, False), (_GATED, True))
    for name, directory, place, bits, size in rows
}  # fmt: skip


def file(name: str) -> File:
    """A file by its name without `.safetensors`, or by its whole name."""
    return FILES[name] if name in FILES else FILES[f"{name}.safetensors"]
