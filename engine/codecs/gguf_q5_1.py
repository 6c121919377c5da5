"""GGUF Q5_1 blocks in, float32 rows out.

w = d * q + m in blocks of 32: d and m float16, the fifth bits of all codes q, their low 4 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._gguf import fifth_bits, gguf_codec, half, nibbles

if TYPE_CHECKING:
    import torch


def decode(blocks: torch.Tensor) -> torch.Tensor:
    """(b, bytes) uint8 -> (b, numbers) float32."""
    import torch

    codes = nibbles(blocks[:, 8:]) | fifth_bits(blocks[:, 4:8])
    return half(blocks, 0) * codes.to(torch.float32) + half(blocks, 2)


CODEC = gguf_codec("Q5_1", decode)
