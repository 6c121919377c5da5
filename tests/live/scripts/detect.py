"""A model file -> what core takes it for, with the sizes it derived and the keys it missed."""

from __future__ import annotations

from typing import Any


def run(path: str) -> dict[str, Any]:
    """Load the file as UNETLoader does and name what came out."""
    import comfy.sd
    import comfy.utils

    patcher = comfy.sd.load_diffusion_model(path)
    model = patcher.model
    expected = set(model.diffusion_model.state_dict())
    stored = set(model.model_config.process_unet_state_dict(comfy.utils.load_torch_file(path)))
    config = model.model_config.unet_config
    return {
        "class": type(model).__name__,
        "config": {name: value for name, value in config.items() if isinstance(value, int | str)},
        "missing": sorted(expected - stored),
        "unexpected": sorted(stored - expected),
    }
