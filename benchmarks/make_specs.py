"""A ComfyUI folder in, header-only specs of real models out: `python make_specs.py COMFYUI OUT`.

Run it with ComfyUI's own interpreter. The names and shapes are those of ComfyUI's model classes,
built on the meta device with the public configurations; no weight is read or made.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import defaultdict
from pathlib import Path

Shapes = dict[str, tuple[int, ...]]

FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
    "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "txt_ids_dims": [],
}  # fmt: skip
WAN_14B = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "num_layers": 40, "out_dim": 16}
WAN_5B = {"dim": 3072, "ffn_dim": 14336, "num_heads": 24, "num_layers": 30, "in_dim": 48}

# name: (title, public file, dtype, class, arguments, billions of parameters, what the class lacks)
MODELS = {
    "qwen-image-edit-2511": (
        "Qwen-Image-Edit 2511", "qwen_image_edit_2511_bf16.safetensors", "BF16",
        "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",
        {"default_ref_method": "index_timestep_zero"}, 20.43, {}),
    "flux1-dev": (
        "FLUX.1 dev", "flux1-dev.safetensors", "BF16", "comfy.ldm.flux.model.Flux",
        FLUX | {"guidance_embed": True}, 11.90, {}),
    "flux1-schnell": (
        "FLUX.1 schnell", "flux1-schnell.safetensors", "BF16", "comfy.ldm.flux.model.Flux",
        FLUX | {"guidance_embed": False}, 11.89, {}),
    "wan2.1-t2v-14b": (
        "Wan 2.1 T2V 14B", "wan2.1_t2v_14B_fp16.safetensors", "F16",
        "comfy.ldm.wan.model.WanModel", WAN_14B | {"in_dim": 16}, 14.29, {}),
    "wan2.1-i2v-14b-480p": (
        "Wan 2.1 I2V 14B 480p", "wan2.1_i2v_480p_14B_fp16.safetensors", "F16",
        "comfy.ldm.wan.model.WanModel", WAN_14B | {"in_dim": 36, "model_type": "i2v"}, 16.40, {}),
    "wan2.2-t2v-14b": (
        "Wan 2.2 T2V 14B, high or low noise", "wan2.2_t2v_high_noise_14B_fp16.safetensors", "F16",
        "comfy.ldm.wan.model.WanModel", WAN_14B | {"in_dim": 16}, 14.29, {}),
    "wan2.2-i2v-14b": (
        "Wan 2.2 I2V 14B, high or low noise", "wan2.2_i2v_high_noise_14B_fp16.safetensors", "F16",
        "comfy.ldm.wan.model.WanModel", WAN_14B | {"in_dim": 36}, 14.29, {}),
    "wan2.2-ti2v-5b": (
        "Wan 2.2 TI2V 5B", "wan2.2_ti2v_5B_fp16.safetensors", "F16",
        "comfy.ldm.wan.model.WanModel", WAN_5B | {"out_dim": 48}, 5.00, {}),
    "t5-xxl": (
        "T5-XXL encoder", "t5xxl_fp16.safetensors", "F16", "comfy.text_encoders.t5.T5",
        {"config": "comfy/text_encoders/t5_config_xxl.json"}, 4.76, {}),
    "umt5-xxl": (
        "UMT5-XXL encoder", "umt5_xxl_fp16.safetensors", "F16", "comfy.text_encoders.t5.T5",
        {"config": "comfy/text_encoders/umt5_config_xxl.json"}, 5.68, {}),
    "clip-l": (
        "CLIP-L text encoder", "clip_l.safetensors", "F16", "comfy.clip_model.CLIPTextModel",
        {"config": "comfy/sd1_clip_config.json"}, 0.12, {}),
    "clip-vision-h": (
        "CLIP ViT-H vision tower", "clip_vision_h.safetensors", "F16",
        "comfy.clip_model.CLIPVisionModelProjection",
        {"config": "comfy/clip_vision_config_h.json"}, 0.63, {}),
    "qwen2.5-vl-7b": (
        "Qwen2.5-VL 7B with its vision tower", "qwen_2.5_vl_7b.safetensors", "BF16",
        "comfy.text_encoders.llama.Qwen25_7BVLI", {"config": None}, 8.29,
        {"lm_head.weight": (152064, 3584)}),
}  # fmt: skip


def shapes_of(comfyui: Path, path: str, arguments: dict[str, object]) -> Shapes:
    """The names and shapes of one of ComfyUI's classes, on the meta device."""
    import importlib

    import comfy.ops
    import torch

    module, _, name = path.rpartition(".")
    build = getattr(importlib.import_module(module), name)
    placed = {
        "dtype": torch.bfloat16,
        "device": "meta",
        "operations": comfy.ops.disable_weight_init,
    }
    with torch.device("meta"):
        if "config" in arguments:
            config = arguments["config"]
            facts = json.loads((comfyui / str(config)).read_text()) if config else {}
            model = build(facts, **placed)
        else:
            model = build(**arguments, **placed)
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    # ComfyUI's class calls them `weight`; the public FLUX files, as trained, `scale`
    rename = path.startswith("comfy.ldm.flux.")
    return {
        re.sub(r"(query_norm|key_norm)\.weight$", r"\1.scale", name) if rename else name: shape
        for name, shape in found.items()
    }


def folded(shapes: Shapes) -> dict[str, list[object]]:
    """Names with the block index taken out: {"blocks.{}.ffn.0.weight": [shape, blocks]}."""
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    result: dict[str, list[object]] = {}
    for name, shape in shapes.items():
        found = re.search(r"\.(\d+)\.", name)
        template = name[: found.start(1)] + "{}" + name[found.end(1) :] if found else name
        groups[template, shape].append(int(found[1]) if found else -1)
    for (template, shape), indices in groups.items():
        if len(indices) > 1 and indices == list(range(len(indices))):
            result[template] = [list(shape), len(indices)]
            continue
        for index in indices:
            result[template.format(index)] = [list(shape)]
    return result


def main(comfyui: Path, out: Path) -> None:
    """Write one JSON for each model and compare its parameters with the published number."""
    os.chdir(comfyui)
    sys.path.insert(0, str(comfyui))
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    for name, (title, file, dtype, path, arguments, billions, left_out) in MODELS.items():
        shapes = shapes_of(comfyui, path, arguments) | left_out
        count = 0
        for shape in shapes.values():
            size = 1
            for side in shape:
                size *= side
            count += size
        if abs(count / 1e9 - billions) > 0.006:
            raise SystemExit(f"{name}: {count} parameters, published {billions} billion")
        facts = {"title": title, "file": file, "dtype": dtype, "parameters": count}
        rows = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in folded(shapes).items())
        head = json.dumps(facts, indent=1)[:-2]
        (out / f"{name}.json").write_text(f'{head},\n "tensors": {{\n{rows}\n }}\n}}\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
