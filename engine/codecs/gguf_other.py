"""Blocks of the rarer GGUF types in, float32 rows out, decoded by the gguf package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..codec import Codec
from ..ggml import BY_NAME, PACKAGE
from ._gguf import WHOSE, block_rows

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors


def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
    """Rows [start, stop), `columns` numbers each, of the ggml type `type`."""
    kind = BY_NAME[str(settings["type"])]

    def decode(blocks: torch.Tensor) -> torch.Tensor:
        """What the package makes of these blocks."""
        import gguf
        import torch

        found = gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[kind.name])
        return torch.from_numpy(found).to(torch.float32)

    return block_rows(kind, decode, tensors, settings, start, stop)


CODEC = Codec("gguf_other", "GGUF IQ1 to IQ3, TQ and MXFP4", WHOSE, 4, rows, needs=PACKAGE)
