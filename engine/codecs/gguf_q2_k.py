"""GGUF Q2_K blocks in, float32 rows out.

w = d * s * q - e * m in blocks of 256: 16 bytes with s (low) and m (high) of 16 numbers each,
256 codes q of 2 bits, d and e float16.
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
    codes = fields(blocks[:, 16:80].view(count, 2, 32), 2).reshape(count, 16, 16)
    scales, minima = (
        (blocks[:, :16] & 15).to(torch.float32),
        (blocks[:, :16] >> 4).to(torch.float32),
    )
    factor, offset = half(blocks, 80) * scales, half(blocks, 82) * minima
    values = factor[..., None] * codes.to(torch.float32) - offset[..., None]
    return values.reshape(count, 256)


CODEC = gguf_codec("Q2_K", decode)
