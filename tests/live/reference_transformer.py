"""ComfyUI's own FLUX against the reference transformer, same weights: one JSON line with the difference.

Run with ComfyUI's interpreter; COMFYUI_PATH says where ComfyUI is. Exit 1 when they differ.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

BOUND = 1e-4
ROOT = Path(__file__).resolve().parents[2]


def load_package() -> None:
    """Make the repository importable as `fusequant` without installing it."""
    spec = importlib.util.spec_from_file_location(
        "fusequant", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules["fusequant"] = package
    spec.loader.exec_module(package)


def main() -> int:
    """Compare one forward pass of both in float32."""
    load_package()
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.model_detection
    import comfy.ops
    import torch
    from comfy.ldm.flux.model import Flux
    from fusequant.engine.measure import synthetic
    from fusequant.engine.measure.config import FluxConfig
    from fusequant.engine.measure.transformer import ReferenceTransformer

    torch.manual_seed(0)
    config = FluxConfig()
    weights = {key: w.float() for key, w in synthetic.make_weights(config, 1).items()}
    detected = comfy.model_detection.detect_unet_config(weights, "")
    found = comfy.model_detection.model_config_from_unet(weights, "")
    model = Flux(**detected, operations=comfy.ops.disable_weight_init, dtype=torch.float32)
    model.load_state_dict(found.process_unet_state_dict(dict(weights)), strict=True)
    height, width = 6, 10
    latent = torch.randn(2, 16, 2 * height, 2 * width)
    txt, vector = torch.randn(2, 24, config.context), torch.randn(2, config.vector)
    timestep, guidance = torch.tensor([0.7, 0.3]), torch.tensor([3.5, 2.0])
    img = latent.unflatten(2, (height, 2)).unflatten(4, (width, 2))
    img = img.permute(0, 2, 4, 1, 3, 5).reshape(2, height * width, 64)
    with torch.inference_mode():
        theirs = model(latent, timestep, txt, vector, guidance)
        ours = ReferenceTransformer(config, weights)(
            img, txt, vector, timestep, guidance, (height, width)
        )
    ours = ours.reshape(2, height, width, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(latent.shape)
    difference = float((ours - theirs).norm() / theirs.norm())
    row = {
        "detected": type(found).__name__,
        "difference": difference,
        "output_rms": float(theirs.pow(2).mean().sqrt()),
    }
    sys.stdout.write(json.dumps(row) + "\n")
    return 0 if difference < BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
