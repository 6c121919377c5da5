"""Diffusers' names as core converts them and as we do: one line for each model that core converts.

The Diffusers state dict is made from core's own map, so that no name in it comes from our tables.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import comfy.model_detection
import comfy.supported_models
import comfy.utils
import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]
MAPS = {
    "flux": comfy.utils.flux_to_diffusers,
    "z_image": comfy.utils.z_image_to_diffusers,
    "sd3": comfy.utils.mmdit_to_diffusers,
}
# names that core's map takes from LoRA files; no checkpoint has them
NOT_STORED = ("ff.linear_", "ff_context.linear_", "to_qkv_mlp_proj", "attn.to_out.weight")


def models() -> ModuleType:
    """The tiny models of every family."""
    path = Path(__file__).with_name("fuse_models.py")
    spec = importlib.util.spec_from_file_location("fuse_models", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuse_models"] = module
    spec.loader.exec_module(module)
    return module


def spelled(name: str) -> Tensors:
    """A tiny model as Diffusers stores it, with random numbers."""
    entry = models().MODELS[name]
    config = getattr(comfy.supported_models, entry.config)(dict(entry.sizes))
    config.set_inference_dtype(torch.float32, None)
    built = config.get_model({}, device="meta").diffusion_model.state_dict()
    generator = torch.Generator().manual_seed(0)
    found = {}
    for key, target in MAPS[name](entry.sizes).items():
        to, rows = (target, None) if isinstance(target, str) else target[:2]
        if to not in built or any(part in key for part in NOT_STORED):
            continue
        shape = list(built[to].shape)
        shape[0] = rows[2] if rows else shape[0]
        found[key] = torch.randn(shape, generator=generator)
    return found


def ours(tensors: Tensors) -> tuple[Any, Tensors]:
    """(model, what it holds under core's names)."""
    from fusequant.engine.files.open import open_source
    from fusequant.engine.model import recognise
    from fusequant.engine.read import read
    from fusequant.engine.rows import row_count, rows_of

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(tensors, str(path))
        source = open_source(path)
        model = recognise(read(source))
        values = {
            x.key: rows_of(x, source)(0, row_count(x)).reshape(x.shape).clone()
            for x in model.layers
        }
        source.close()
    return model, values


def run() -> Iterator[dict[str, Any]]:
    """One line for each model: where the two conversions differ."""
    for name in MAPS:
        tensors = spelled(name)
        given = {key: tensor.clone() for key, tensor in tensors.items()}  # core writes into them
        core = comfy.model_detection.convert_diffusers_mmdit(given, "")
        model, values = ours(tensors)
        differ = [
            key
            for key in core.keys() | values.keys()
            if key not in core or key not in values or not torch.equal(core[key], values[key])
        ]
        yield {"name": name, "family": model.family.name, "spelling": model.spelling,
               "keys": len(core), "differ": sorted(differ)}  # fmt: skip
