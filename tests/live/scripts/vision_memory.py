"""A CLIP vision file and a scheme -> what loading it costs this process, which did nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def run(path: str, scheme: str | None) -> dict[str, Any]:
    """Private memory after loading over the one before, and what the tower holds, in bytes."""
    import comfy.clip_vision
    import torch

    import fusequant.host.clip_vision

    torch.set_num_threads(1)
    before = _private()
    with torch.inference_mode():  # as the server runs nodes
        if scheme is None:
            vision = comfy.clip_vision.load(path)
        else:
            vision, _ = fusequant.host.clip_vision.load_clip_vision(path, scheme)
        private = _private() - before
        image = torch.rand(1, 224, 224, 3, generator=torch.Generator().manual_seed(0))
        seen = vision.encode_image(image)["penultimate_hidden_states"]
    return {
        "private": private, "finite": bool(seen.isfinite().all()),
        "held": sum(tensor.nbytes for tensor in vision.model.state_dict().values()),
    }  # fmt: skip


def _private() -> int:
    """Anonymous memory of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0
