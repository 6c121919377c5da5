"""GGUF Q5_K blocks in, float32 rows out.

w = d * s * q - e * m in blocks of 256: d and e float16, s and m of 6 bits for 32 numbers each,
the fifth bits of all codes q, their low 4 bits.
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
    low = fields(blocks[:, 48:].view(count, 4, 32), 4).reshape(count, 8, 32)
    codes = low | (fields(blocks[:, 16:48], 1) << 4)
    values = factor[..., None] * codes.to(torch.float32) - offset[..., None]
    return values.reshape(count, 256)


CODEC = gguf_codec("Q5_K", decode)
