"""A plain stand-in in, the same model as a tool publishes it quantized out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from fusequant.engine.families.t5 import FAMILY as T5

from . import tiny
from .scripts.encoder_files import spelled
from .small_sizes.sizes import TOWERS

Tensors = dict[str, torch.Tensor]
BLOCKS = ("blocks.", "layers.", "block.")


def quantized(plain: Path, target: Path, dialect: str) -> None:
    """The blocks' linear layers in a dialect of `encoder_files`; under Wan's names in .pth."""
    tensors = load_file(str(plain))
    if target.suffix == ".pth":
        tensors = _wan_names(tensors)
    layers = [
        name.removesuffix(".weight")
        for name, tensor in tensors.items()
        if tensor.dim() == 2 and name.endswith(".weight") and _in_block(name)
    ]
    made, _ = spelled(dialect, tensors, layers)
    made = {name: tensor.contiguous() for name, tensor in made.items()}
    if target.suffix == ".pth":
        torch.save(made, target)
    else:
        save_file(made, str(target), metadata={"format": "pt"})


def control_lora(model: Path, target: Path) -> None:
    """FLUX.1's own control LoRA: bare names, biases, norms, and twice the columns for `img_in`."""
    plain, made = load_file(str(model)), {}
    for layer, (down, up, _) in tiny.deltas(model).items():
        made[f"{layer}.lora_A.weight"], made[f"{layer}.lora_B.weight"] = down, up
        if f"{layer}.bias" in plain:
            made[f"{layer}.lora_B.bias"] = plain[f"{layer}.bias"] * 0.1
    made |= {name: tensor * 1.1 for name, tensor in plain.items() if name.endswith("_norm.scale")}
    rows, columns = plain["img_in.weight"].shape
    made["img_in.lora_A.weight"] = torch.eye(2 * columns)
    made["img_in.lora_B.weight"] = torch.full((rows, 2 * columns), 1e-3)
    made["img_in.lora_B.bias"] = torch.zeros(rows)
    tensors = {name: tensor.bfloat16().contiguous() for name, tensor in made.items()}
    save_file(tensors, str(target), metadata={"format": "pt"})


def _in_block(name: str) -> bool:
    wanted = any(part in name for part in (*BLOCKS, ".transformer."))
    return wanted and "bias" not in name and "visual.blocks" not in name and "norm" not in name


def _wan_names(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """T5 or a CLIP vision tower as Wan's release names it; a tokenizer lies beside such a file."""
    if "vision_model.post_layernorm.weight" in tensors:
        return _wan_tower(tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    found = {}
    for name, target in T5.aliases(shapes).items():
        if target.key in tensors:
            found[f"{name}.weight"] = tensors[target.key]
    return found


def _wan_tower(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """q, k and v joined, tables with leading ones, the projection transposed."""
    top, made = "vision_model.", {}
    made["visual.cls_embedding"] = tensors[f"{top}embeddings.class_embedding"][None, None]
    made["visual.pos_embedding"] = tensors[f"{top}embeddings.position_embedding.weight"][None]
    made["visual.patch_embedding.weight"] = tensors[f"{top}embeddings.patch_embedding.weight"]
    made["visual.head"] = tensors["visual_projection.weight"].t()
    names = {"pre_layrnorm": "pre_norm", "post_layernorm": "post_norm"}
    inside = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj",
              "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}  # fmt: skip
    for leaf in ("weight", "bias"):
        made |= {
            f"visual.{new}.{leaf}": tensors[f"{top}{old}.{leaf}"] for old, new in names.items()
        }
        for layer in range(TOWERS["clip_vision_model"]["num_hidden_layers"]):
            at, to = f"{top}encoder.layers.{layer}.", f"visual.transformer.{layer}."
            joined = [tensors[f"{at}self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            made[f"{to}attn.to_qkv.{leaf}"] = torch.cat(joined)
            made |= {f"{to}{new}.{leaf}": tensors[f"{at}{old}.{leaf}"]
                     for old, new in inside.items()}  # fmt: skip
    made["visual.transformer.30.norm1.weight"] = tensors[
        f"{top}encoder.layers.30.layer_norm1.weight"
    ]
    return made
