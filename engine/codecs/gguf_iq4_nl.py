"""GGUF IQ4_NL blocks in, float32 rows out.

w = d * LEVELS[q] in blocks of 32: d float16, 32 codes q of 4 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._gguf import LEVELS, gguf_codec, half, nibbles

if TYPE_CHECKING:
    import torch


def decode(blocks: torch.Tensor) -> torch.Tensor:
    """(b, bytes) uint8 -> (b, numbers) float32."""
    import torch

    levels = torch.tensor(LEVELS, dtype=torch.float32)
    return half(blocks, 0) * levels[nibbles(blocks[:, 2:]).to(torch.int64)]


CODEC = gguf_codec("IQ4_NL", decode)
