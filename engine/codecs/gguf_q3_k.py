"""GGUF Q3_K blocks in, float32 rows out.

w = d * (s - 32) * (q - 4) in blocks of 256: the third bits of all codes q, their low 2 bits,
16 scales s of 6 bits (low 4 of all, then high 2) for 16 numbers each, d float16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._gguf import fields, gguf_codec, half, nibbles

if TYPE_CHECKING:
    import torch


def decode(blocks: torch.Tensor) -> torch.Tensor:
    """(b, bytes) uint8 -> (b, numbers) float32."""
    import torch

    count = blocks.shape[0]
    low = fields(blocks[:, 32:96].view(count, 2, 32), 2).reshape(count, 16, 16)
    high = fields(blocks[:, :32], 1).reshape(count, 16, 16) << 2
    packed = blocks[:, 96:108]
    scales = nibbles(packed[:, :8]) | (fields(packed[:, 8:], 2).reshape(count, 16) << 4)
    factor = half(blocks, 108) * (scales.to(torch.float32) - 32)
    codes = (low | high).to(torch.float32) - 4
    return (factor[..., None] * codes).reshape(count, 256)


CODEC = gguf_codec("Q3_K", decode)
