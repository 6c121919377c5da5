"""Model files -> what core takes each for, with the sizes it derived and the keys it missed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def run(paths: list[str]) -> Iterator[dict[str, Any]]:
    """Load each file as UNETLoader does and name what came out."""
    import comfy.sd
    import comfy.utils

    for path in paths:
        model = comfy.sd.load_diffusion_model(path).model
        expected = set(model.diffusion_model.state_dict())
        stored = set(model.model_config.process_unet_state_dict(comfy.utils.load_torch_file(path)))
        config = model.model_config.unet_config
        yield {
            "class": type(model).__name__,
            "config": {name: at for name, at in config.items() if isinstance(at, int | str)},
            "missing": sorted(expected - stored),
            "unexpected": sorted(stored - expected),
        }
