"""Codes with tiled block scales: the plain formulas, which are the fastest on a CPU as well.

The products also run on cards, in x's dtype and in longer runs of rows. Quantizing 2048 x 2048 in
nvfp4 takes half of comfy-kitchen's time on a CPU, in mxfp8 a third.
"""

from __future__ import annotations

import torch

from .. import bits
from ..constraints import Dtypes, On
from ..registry import Claim
from ..tiles import ROWS, untiled
from . import _reference_blocks as plain
from ._by_rows import blocks_of_rows, compute_dtype, plain_linear

Tensor = torch.Tensor

# of one widened run of rows: a CPU's cache, and on a card work for all of it
RUN_ELEMENTS, CARD_ELEMENTS = 1 << 20, 1 << 24


def dequantize_mxfp8(weight: Tensor, scale: Tensor) -> Tensor:
    """(N, K) e4m3, tiled uint8 -> (N, K) float32."""
    rows, k = weight.shape
    spread = bits.e8m0_to_float(untiled(scale, rows, k // 32)).unsqueeze(-1)
    return bits.e4m3_to_float(weight).view(rows, k // 32, 32).mul_(spread).view(rows, k)


def mxfp8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) e4m3 -> (M, N); x as it is."""
    dtype = compute_dtype(x.device.type, x.dtype)
    runs = blocks_of_rows(weight.shape[0], x.shape[1], _elements(x), ROWS)
    wide = (dequantize_mxfp8(weight[a:b], scale[a : _tile(b)]).to(dtype) for a, b in runs)
    return plain_linear(x, wide, weight.shape[0], bias)


def nvfp4_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    scale_2: Tensor,
    input_scale: Tensor | None,
) -> Tensor:
    """(M, K), (N, K / 2) uint8 -> (M, N); x as it is, `input_scale` has no use."""
    dtype = compute_dtype(x.device.type, x.dtype)
    runs = blocks_of_rows(weight.shape[0], x.shape[1], _elements(x), ROWS)
    wide = (
        plain.dequantize_nvfp4(weight[a:b], scale[a : _tile(b)], scale_2).to(dtype) for a, b in runs
    )
    return plain_linear(x, wide, weight.shape[0], bias)


def _elements(x: Tensor) -> int:
    return RUN_ELEMENTS if x.device.type == "cpu" else CARD_ELEMENTS


def _tile(stop: int) -> int:
    """The end of the tile of scales that a run of rows ends in."""
    return -(-stop // ROWS) * ROWS


_HERE = (On(("cpu",)),)
_ANY_FLOAT = Dtypes((torch.bfloat16, torch.float16, torch.float32))
_FLOATS = (*_HERE, _ANY_FLOAT)
_MULTIPLIED = (On(("cpu", "cuda")), _ANY_FLOAT)

CLAIMS = (
    Claim("quantize_mxfp8", plain.quantize_mxfp8, {"weight": _FLOATS}),
    Claim("dequantize_mxfp8", dequantize_mxfp8, {"weight": _HERE}),
    Claim("quantize_nvfp4", plain.quantize_nvfp4, {"weight": _FLOATS}),
    Claim("dequantize_nvfp4", plain.dequantize_nvfp4, {"weight": _HERE}),
    Claim("mxfp8_linear", mxfp8_linear, {"x": _MULTIPLIED}, error=0.006),
    Claim("nvfp4_linear", nvfp4_linear, {"x": _MULTIPLIED}, error=0.006),
)
