"""Blocks of a GGUF tensor in, float32 rows out: what all of its types have in common.

A row's numbers follow each other in blocks; a row may begin inside one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..codec import Codec
from ..ggml import BY_NAME, GgmlType

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors

    # (blocks, bytes) uint8 -> (blocks, numbers) float32
    Decode = Callable[[torch.Tensor], torch.Tensor]

WHOSE = "llama.cpp, ComfyUI-GGUF"
# what the codes of the IQ4 types mean: steps that are finer near zero
LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def gguf_codec(name: str, decode: Decode) -> Codec:
    """The codec of a ggml type by what its blocks mean."""
    kind = BY_NAME[name]

    def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop), `columns` numbers each."""
        return block_rows(kind, decode, tensors, settings, start, stop)

    bits = kind.size * 8 / kind.elements
    return Codec(f"gguf_{name.lower()}", f"GGUF {name}", WHOSE, bits, rows)


def block_rows(
    kind: GgmlType, decode: Decode, tensors: Tensors, settings: Settings, start: int, stop: int
) -> torch.Tensor:
    """Rows [start, stop) from the blocks that they lie in."""
    columns = int(str(settings["columns"]))
    first, end = start * columns, stop * columns
    low, high = first // kind.elements, -(-end // kind.elements)
    data = tensors["weight"].reshape(-1)[low * kind.size : high * kind.size]
    values = decode(data.view(high - low, kind.size)).reshape(-1)
    at = low * kind.elements
    return values[first - at : end - at].reshape(stop - start, columns)


def half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """The float16 at byte `at` of each block, as float32 (blocks, 1)."""
    import torch

    return blocks[:, at : at + 2].contiguous().view(torch.float16).to(torch.float32)


def nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Low halves of all bytes, then high halves: (.., b) uint8 -> (.., 2 b)."""
    import torch

    return torch.cat((codes & 15, codes >> 4), -1)


def fields(codes: torch.Tensor, width: int) -> torch.Tensor:
    """Bit fields of `width` bits, the lowest of all bytes first: (.., b) -> (.., 8 / width, b)."""
    import torch

    shifts = torch.arange(0, 8, width, dtype=torch.uint8)[:, None]
    return (codes[..., None, :] >> shifts) & ((1 << width) - 1)


def fifth_bits(packed: torch.Tensor) -> torch.Tensor:
    """32 bits, the lowest of the first byte first, each as 16 or 0: (b, 4) -> (b, 32) uint8."""
    return fields(packed, 1).transpose(1, 2).reshape(-1, 32) << 4


def six_bits(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(scales, minima) of eight sub-blocks from 12 bytes of 6-bit numbers: (blocks, 8) float32."""
    import torch

    scale, least, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:12]
    scales = torch.cat((scale & 63, (rest & 15) | (scale >> 6 << 4)), 1)
    minima = torch.cat((least & 63, (rest >> 4) | (least >> 6 << 4)), 1)
    return scales.to(torch.float32), minima.to(torch.float32)
