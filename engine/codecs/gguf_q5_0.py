"""GGUF Q5_0 blocks in, float32 rows out.

w = d * (q - 16) in blocks of 32: d float16, the fifth bits of all codes q, their low 4 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._gguf import fifth_bits, gguf_codec, half, nibbles

if TYPE_CHECKING:
    import torch


def decode(blocks: torch.Tensor) -> torch.Tensor:
    """(b, bytes) uint8 -> (b, numbers) float32."""
    import torch

    codes = nibbles(blocks[:, 6:]) | fifth_bits(blocks[:, 2:6])
    return half(blocks, 0) * (codes.to(torch.float32) - 16)


CODEC = gguf_codec("Q5_0", decode)
