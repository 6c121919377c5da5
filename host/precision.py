"""Whether float32 products may be rounded to TF32 in, a block inside which that holds out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let CUDA's float32 matrix products use TF32, or not, inside the block; then as before.

    torch has an older switch (`allow_tf32`) and a newer one (`fp32_precision`); whoever reads the
    older after the newer was set meets an error. So the older is set, and all that shows either is
    put back. Where the user has set the newer alone, it is used alone.
    """
    matmul: Any = torch.backends.cuda.matmul
    text = getattr(matmul, "fp32_precision", None)
    try:
        switch, named = matmul.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        matmul.fp32_precision = "tf32" if allowed else "ieee"
        try:
            yield
        finally:
            matmul.fp32_precision = text
        return
    onednn = _onednn()
    matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        if named == "medium":  # the older switch does not know it
            torch.set_float32_matmul_precision(named)
        else:
            matmul.allow_tf32 = switch
        if text is not None:
            matmul.fp32_precision = text
        if onednn is not None:
            torch.backends.mkldnn.matmul.fp32_precision = onednn  # type: ignore[attr-defined]


def _onednn() -> str | None:
    """What `medium` sets beside the CUDA switches."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    return getattr(matmul, "fp32_precision", None)


def why_not(device: torch.device) -> str | None:
    """Why TF32 means nothing on a device, or None."""
    if device.type != "cuda" or torch.version.hip:
        return f"TF32 is NVIDIA's, this is {device.type}"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"TF32 needs sm_80 or later, this is sm_{major}{minor}"
