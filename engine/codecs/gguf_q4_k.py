"""GGUF Q4_K blocks in, float32 rows out.

w = d * s * q - e * m in blocks of 256: d and e float16, s and m of 6 bits for 32 numbers each,
256 codes q of 4 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._gguf import fields, gguf_codec, half, six_bits

if TYPE_CHECKING:
    import torch


def decode(blocks: torch.Tensor) -> torch.Tensor:
    """(b, bytes) uint8 -> (b, numbers) float32."""
    import torch

    count = blocks.shape[0]
    scales, minima = six_bits(blocks[:, 4:16])
    factor, offset = half(blocks, 0) * scales, half(blocks, 2) * minima
    codes = fields(blocks[:, 16:].view(count, 4, 32), 4).reshape(count, 8, 32)
    values = factor[..., None] * codes.to(torch.float32) - offset[..., None]
    return values.reshape(count, 256)


CODEC = gguf_codec("Q4_K", decode)
