"""GGUF IQ4_XS blocks in, float32 rows out.

w = d * (s - 32) * LEVELS[q] in blocks of 256: d float16, the high 2 bits of eight scales s, their
low 4, for 32 numbers each, 256 codes q of 4 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._gguf import LEVELS, fields, gguf_codec, half, nibbles

if TYPE_CHECKING:
    import torch


def decode(blocks: torch.Tensor) -> torch.Tensor:
    """(b, bytes) uint8 -> (b, numbers) float32."""
    import torch

    count = blocks.shape[0]
    high = fields(blocks[:, 2:4], 2).transpose(1, 2).reshape(count, 8)
    low = fields(blocks[:, 4:8], 4).transpose(1, 2).reshape(count, 8)
    factor = half(blocks, 0) * ((low | high << 4).to(torch.float32) - 32)
    codes = nibbles(blocks[:, 8:].view(count, 8, 16))
    levels = torch.tensor(LEVELS, dtype=torch.float32)
    return (factor[..., None] * levels[codes.to(torch.int64)]).reshape(count, 256)


CODEC = gguf_codec("IQ4_XS", decode)
