"""This ComfyUI takes models of the sizes in `sizes`; a node pack for tests only, without nodes.

ComfyUI knows a few encoders and transformers by their width, or builds them at the one width that
the public files have: gigabytes. Here those sizes, and nothing else, are replaced, so that a
workflow can run with every one of its nodes on two processor cores. Names of tensors, detection
of the model and of its codes, and all arithmetic stay ComfyUI's own.
"""

from __future__ import annotations

import math
from typing import Any

import comfy.clip_vision
import comfy.ldm.flux.redux as redux
import comfy.model_detection
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.qwen3vl as qwen3_vl
import comfy.text_encoders.qwen_vl as qwen_vl
import comfy.utils
from comfy_api.latest import ComfyExtension, io

from . import sizes

detect_unet = comfy.model_detection.detect_unet_config
detect_text = comfy.sd.detect_te_model
load_text = comfy.sd.load_text_encoder_state_dicts
build_vision = qwen_vl.Qwen2VLVisionTransformer
enlarge = comfy.utils.common_upscale
build_redux = redux.ReduxImageEncoder
build_tower = dict(comfy.clip_vision.IMAGE_ENCODERS)


def small_transformer(*args: Any, **options: Any) -> dict[str, Any] | None:
    """As ComfyUI's, with the sizes that it would fix."""
    found = detect_unet(*args, **options)
    return found and {**found, **sizes.TRANSFORMERS.get(found.get("image_model"), {})}


def small_detection(tensors: dict[str, Any]) -> Any:
    """As ComfyUI's; T5-XXL and Qwen3 by their layers instead of by their width."""
    models = comfy.sd.TEModel
    if "encoder.block.0.layer.1.DenseReluDense.wi_1.weight" in tensors:
        return models.T5_XXL
    if "model.visual.deepstack_merger_list.0.norm.weight" in tensors:
        return models.QWEN3VL_4B
    keys = tensors.get("model.layers.0.self_attn.k_proj.weight")
    if keys is not None and "model.layers.0.self_attn.q_norm.weight" in tensors:
        four = sizes.ENCODERS["qwen3_4b_model_config"]["num_key_value_heads"] * sizes.HEAD
        return models.QWEN3_4B if keys.shape[0] == four else models.QWEN3_8B
    return detect_text(tensors)


def small_encoders(
    state_dicts: Any, embedding_directory: Any = None, clip_type: Any = None,
    model_options: Any = None, **options: Any,
) -> Any:  # fmt: skip
    """As ComfyUI's, with smaller encoders."""
    small = {
        **{name: dict(found) for name, found in sizes.ENCODERS.items()},
        **(model_options or {}),
    }
    return load_text(state_dicts, embedding_directory, clip_type, small, **options)


def small_vision(**options: Any) -> Any:
    """As ComfyUI's, smaller."""
    return build_vision(**{**options, **sizes.VISION})


def small_picture(samples: Any, width: int, height: int, *rest: Any) -> Any:
    """As ComfyUI's; of what would be larger, the sides' ratio and a small area."""
    scale = sizes.PICTURE / math.sqrt(width * height)
    if scale < 1.0:
        width, height = (max(16, round(side * scale / 16) * 16) for side in (width, height))
    return enlarge(samples, width, height, *rest)


def small_redux(**options: Any) -> Any:
    """As ComfyUI's, for narrower text."""
    return build_redux(txt_in_features=sizes.TEXT, **options)


def small_tower(kind: str) -> Any:
    """The class of a kind of vision encoder, with fewer layers."""
    return lambda config, *rest: build_tower[kind]({**config, **sizes.TOWERS[kind]}, *rest)


class SmallSizes(ComfyExtension):
    """Has no nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Nothing -> no classes."""
        return []


comfy.model_detection.detect_unet_config = small_transformer
comfy.sd.detect_te_model = small_detection
comfy.sd.load_text_encoder_state_dicts = small_encoders
qwen_vl.Qwen2VLVisionTransformer = small_vision
qwen3_vl.QWEN3VL_VISION["qwen3vl_4b"] = sizes.QWEN3_VISION
qwen3_vl.QWEN3VL_VISION_COMMON.update(sizes.QWEN3_VISION_COMMON)
comfy.utils.common_upscale = small_picture
redux.ReduxImageEncoder = small_redux
comfy.clip_vision.IMAGE_ENCODERS.update({kind: small_tower(kind) for kind in sizes.TOWERS})
comfy.supported_models.ZImage.unet_config = {"image_model": "lumina2", "dim": sizes.WIDTH}
