"""GGUF Q4_0 blocks in, float32 rows out.

w = d * (q - 8) in blocks of 32: d float16, 32 codes q of 4 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._gguf import gguf_codec, half, nibbles

if TYPE_CHECKING:
    import torch


def decode(blocks: torch.Tensor) -> torch.Tensor:
    """(b, bytes) uint8 -> (b, numbers) float32."""
    import torch

    codes = nibbles(blocks[:, 2:]).to(torch.float32)
    return half(blocks, 0) * (codes - 8)


CODEC = gguf_codec("Q4_0", decode)
