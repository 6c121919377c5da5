"""A folder in, the tiny models and LoRAs that the LoRA tests share out, by name."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from . import tiny


def lora_files(folder: Path) -> dict[str, Path]:
    """{name: file}; `folder` itself is there under `folder`, to save in."""
    flux = tiny.flux(folder / "flux.safetensors")
    wan = tiny.wan(folder / "wan.safetensors")
    made = {
        "folder": folder,
        "flux": flux,
        "wan": wan,
        "lora": tiny.lora(folder / "lora.safetensors", flux),
        "other": tiny.lora(folder / "other.safetensors", flux, seed=5),
        "diffusers": tiny.lora(folder / "diffusers.safetensors", flux, "diffusers"),
        "kohya": tiny.lora(folder / "kohya.safetensors", flux, "kohya"),
        "alpha": tiny.lora(folder / "alpha.safetensors", flux, "kohya", alpha=2.5),
        "wan_lora": tiny.lora(folder / "wan-lora.safetensors", wan),
        "wan_down": tiny.lora(folder / "wan-down.safetensors", wan, only=r"ffn\.2"),
    }
    tensors = load_file(str(made["lora"]))
    first = next(name for name in tensors if name.endswith("lora_B.weight"))
    module = first.removesuffix(".lora_B.weight")
    rows, inputs = tensors[first].shape[0], tensors[f"{module}.lora_A.weight"].shape[1]
    others = {
        "dora": {f"{module}.dora_scale": torch.ones(rows, 1)},
        "magnitude": {f"{module}.lora_magnitude_vector": torch.ones(rows)},
        "nan": {first: torch.full_like(tensors[first], float("nan"))},
        "extra": {
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(8, 2),
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 8),
            "diffusion_model.double_blocks.99.img_attn.qkv.lora_A.weight": torch.ones(2, 8),
            "diffusion_model.double_blocks.99.img_attn.qkv.lora_B.weight": torch.ones(8, 2),
        },
    }
    for name, more in others.items():
        made[name] = folder / f"{name}.safetensors"
        save_file(tensors | more, str(made[name]))
    made["unknown_to_host"] = folder / "unknown.safetensors"
    renamed = {n.replace("diffusion_model.", "base_model.model."): t for n, t in tensors.items()}
    save_file(renamed, str(made["unknown_to_host"]))
    made["conv"] = folder / "conv.safetensors"
    save_file(_conv(wan), str(made["conv"]))
    loha = {f"{module}.hada_w{n}_a": torch.ones(rows, 2) for n in "12"}
    loha |= {f"{module}.hada_w{n}_b": torch.ones(2, inputs) for n in "12"}
    made["loha"] = folder / "loha.safetensors"
    save_file(loha, str(made["loha"]))
    return made


def _conv(wan: Path) -> dict[str, torch.Tensor]:
    """A LoRA with a core tensor on the video convolution that makes the tokens."""
    out, channels, *kernel = load_file(str(wan))["patch_embedding.weight"].shape
    generator = torch.Generator().manual_seed(3)
    shapes = {"lora_up": (out, 4, 1, 1, 1), "lora_mid": (4, 3, *kernel),
              "lora_down": (3, channels, 1, 1, 1)}  # fmt: skip
    return {
        f"diffusion_model.patch_embedding.{role}.weight": torch.randn(shape, generator=generator)
        for role, shape in shapes.items()
    }
