"""Two pictures in, their LPIPS distance out where the package and its weights are on this machine.

Nothing is downloaded: without the weights of the backbone in torch's own cache there is a reason in
the place of a number.
"""

from __future__ import annotations

import importlib
import os

import torch

BACKBONE = "alexnet-owt-7be5be79.pth"


def perceptual(a: torch.Tensor, b: torch.Tensor) -> tuple[float | None, str | None]:
    """(distance, None) or (None, why there is none) for (frames, height, width, 3) in 0..1."""
    try:
        lpips = importlib.import_module("lpips")
    except ImportError as error:
        return None, f"LPIPS is not installed: {error}"
    weights = os.path.join(torch.hub.get_dir(), "checkpoints", BACKBONE)
    if not os.path.isfile(weights):
        return None, f"LPIPS is installed without its backbone: put {BACKBONE} into {weights}"
    model = lpips.LPIPS(net="alex", verbose=False)
    with torch.inference_mode():
        pairs = [x.permute(0, 3, 1, 2) * 2 - 1 for x in (a, b)]
        return float(model(*pairs).mean()), None
