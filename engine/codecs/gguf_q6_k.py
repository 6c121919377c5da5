"""GGUF Q6_K blocks in, float32 rows out.

w = d * s * (q - 32) in blocks of 256: the low 4 bits of all codes q, their high 2 bits, scales s
int8 for 16 numbers each, d float16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._gguf import fields, gguf_codec, half

if TYPE_CHECKING:
    import torch


def decode(blocks: torch.Tensor) -> torch.Tensor:
    """(b, bytes) uint8 -> (b, numbers) float32."""
    import torch

    count = blocks.shape[0]
    low = fields(blocks[:, :128].view(count, 2, 64), 4).reshape(count, 16, 16)
    high = fields(blocks[:, 128:192].view(count, 2, 32), 2).reshape(count, 16, 16)
    scales = blocks[:, 192:208].contiguous().view(torch.int8).to(torch.float32)
    factor = half(blocks, 208) * scales
    codes = (low | high << 4).to(torch.float32) - 32
    return (factor[..., None] * codes).reshape(count, 256)


CODEC = gguf_codec("Q6_K", decode)
