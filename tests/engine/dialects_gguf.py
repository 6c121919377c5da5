"""Tiny GGUF files: id -> (bytes, dialect, scheme of the layer, its numbers)."""

from __future__ import annotations

import torch

from fusequant.engine.ggml import TYPES

from .dialects import NAME, WEIGHT
from .gguf_file import file_of, filled, numbers

N, K = 192, 256
BIAS = {f"{NAME}.bias": numbers(torch.arange(192.0))}
File = tuple[bytes, str, str, torch.Tensor]


def blocks(kind: str) -> File:
    data, values = filled(kind, (N, K))
    stored = {f"{NAME}.weight": (kind, (N, K), data), **BIAS}
    return file_of(stored), "gguf", f"gguf_{kind.lower()}", values


def plain(dtype: torch.dtype) -> File:
    weight = WEIGHT.to(dtype)
    return file_of({f"{NAME}.weight": numbers(weight), **BIAS}), "gguf", "none", weight


READ: dict[str, File] = {
    "gguf-f32": plain(torch.float32),
    "gguf-f16": plain(torch.float16),
    "gguf-bf16": plain(torch.bfloat16),
    **{f"gguf-{kind.name.lower()}": blocks(kind.name) for kind in TYPES.values() if kind.decoded},
}
