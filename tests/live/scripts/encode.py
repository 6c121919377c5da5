"""Text encoder files -> what core makes of a prompt with them, sizes given by model options."""

from __future__ import annotations

from typing import Any


def run(paths: list[str], kind: str, options: dict[str, Any]) -> dict[str, Any]:
    """Load the files as the loader nodes do, encode a prompt, return shapes and two numbers."""
    import comfy.sd

    clip = comfy.sd.load_clip(
        ckpt_paths=paths, clip_type=getattr(comfy.sd.CLIPType, kind), model_options=options
    )
    tokens = clip.tokenize("a photograph of a red fox in the snow")
    encoded, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    return {
        "text": list(encoded.shape),
        "pooled": None if pooled is None else list(pooled.shape),
        "finite": bool(encoded.isfinite().all()),
        "spread": float(encoded.float().std()),
    }
