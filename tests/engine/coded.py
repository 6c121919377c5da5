"""Stored weights for each codec, made from its definition: tensors, settings, numbers.

The name is the codec's, or `codec:variant`.
"""

from __future__ import annotations

import torch

from . import coded_core, coded_gguf, coded_lightx2v, coded_tools

Coded = tuple[dict[str, torch.Tensor], dict[str, object], torch.Tensor]
N, K = 192, 256
GRID = torch.arange(N * K).reshape(N, K)


def int8_blockwise() -> Coded:
    codes = (GRID % 251 - 125).to(torch.int8)
    scale = torch.linspace(0.5, 2, 6).reshape(2, 3)[:, :2].contiguous()
    spread = scale.repeat_interleave(128, 0)[:N].repeat_interleave(128, 1)[:, :K]
    return {"weight": codes, "scale": scale}, {"group_size": 128}, codes * spread


CODED: dict[str, Coded] = {
    "int8_blockwise": int8_blockwise(),
    **coded_core.CODED,
    **coded_gguf.CODED,
    **coded_tools.CODED,
    **coded_lightx2v.LIGHTX2V,
}
