"""Specs of public models -> what core takes each for, and where its own model has other shapes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

Shapes = dict[str, tuple[int, ...]]


def run(names: list[str]) -> Iterator[dict[str, Any]]:
    """Ask core's detection with names and shapes alone; build what it found on the meta device."""
    from fusequant.engine.model import families, recognise
    from fusequant.engine.read import read
    from fusequant.engine.specs import spec

    for name in names:
        public = spec(name)
        state = {key: torch.empty(x.shape, device="meta") for key, x in public.tensors.items()}
        kind = families()[recognise(read(public)).family.name].kind
        line = {"name": name, "kind": kind, "differ": []}
        if kind == "diffusion":
            yield line | _diffusion(state, public.metadata)
        elif kind == "text":
            yield line | _text(state)


def _diffusion(state: dict[str, torch.Tensor], metadata: Any) -> dict[str, Any]:
    import comfy.model_detection

    config = comfy.model_detection.model_config_from_unet(state, "", metadata=metadata)
    if config is None:
        return {"class": ""}
    config.set_inference_dtype(torch.bfloat16, None)
    model = config.get_model({}, "", device="meta").diffusion_model
    built = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    stored = config.process_unet_state_dict(dict(state))
    ours = {key: tuple(tensor.shape) for key, tensor in stored.items()}
    return {"class": type(config).__name__, "differ": _differ(built, ours), "keys": len(built)}


def _text(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    import comfy.sd

    found = comfy.sd.detect_te_model(state)
    return {"class": found.name if found else ""}


def _differ(built: Shapes, ours: Shapes) -> list[str]:
    return sorted(key for key in built.keys() | ours.keys() if built.get(key) != ours.get(key))
