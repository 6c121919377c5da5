"""A stored weight for each GGUF codec: golden blocks and what the gguf package made of them."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from fusequant.engine.ggml import TYPES

from .gguf_file import golden

Coded = tuple[dict[str, torch.Tensor], dict[str, object], torch.Tensor]
ROWS, COLUMNS = 16, 48  # no row of the wider types begins where a block does


def stored(kind: str) -> Coded:
    blocks, values = golden(kind)
    tensors = {"weight": torch.frombuffer(bytearray(blocks), dtype=torch.uint8)}
    return tensors, {"columns": COLUMNS, "type": kind}, values.reshape(ROWS, COLUMNS)


def mxfp4() -> Coded:
    """One block a row: an exponent byte of 128 - 1, then 16 bytes of two e2m1 codes."""
    levels = torch.tensor([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]) * 1.0
    codes = torch.arange(16 * 32).reshape(16, 32) * 7 % 16
    packed = (codes[:, :16] | codes[:, 16:] << 4).to(torch.uint8)
    blocks = torch.cat((torch.full((16, 1), 127, dtype=torch.uint8), packed), 1)
    return {"weight": blocks}, {"columns": 32, "type": "MXFP4"}, levels[codes] / 2


CODED: dict[str, Coded] = {kind.codec: stored(kind.name) for kind in TYPES.values() if kind.decoded}
if find_spec("gguf"):
    CODED["gguf_other"] = mxfp4()
