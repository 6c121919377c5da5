"""GGUF Q8_0 blocks in, float32 rows out.

w = d * q in blocks of 32: d float16, 32 codes q int8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._gguf import gguf_codec, half

if TYPE_CHECKING:
    import torch


def decode(blocks: torch.Tensor) -> torch.Tensor:
    """(b, bytes) uint8 -> (b, numbers) float32."""
    import torch

    codes = blocks[:, 2:].contiguous().view(torch.int8)
    return half(blocks, 0) * codes.to(torch.float32)


CODEC = gguf_codec("Q8_0", decode)
