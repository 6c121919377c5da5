"""A weight in, e4m3 codes and one power of two for each 32 inputs of a row out.

The exponents lie in tiles of 128 rows x 4 blocks; codes are filled up to multiples of 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..scheme import Group, Piece, Scheme
from ..tiling import ROWS, filled, tiled
from ._filled import filled_linear, original, real_shape
from ._storage import check_shape, full_precision, stored

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors

BLOCK = 32
NOT_FINITE = 255  # of an exponent that stands for no number


def refuses(n: int, k: int) -> str | None:
    """Fewer inputs than one block has."""
    return f"{k} inputs are less than one block of {BLOCK}" if k < BLOCK else None


def config(n: int, k: int) -> Mapping[str, object]:
    """The shape of the weight where the codes are filled up."""
    return original(n, k, BLOCK)


def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
    """{role: Piece}: codes F8_E4M3 (n', k'), exponents as bytes, tiled."""
    n, k = filled(n, BLOCK), filled(k, BLOCK)
    return {
        "weight": Piece(".weight", "F8_E4M3", (n, k)),
        "scale": Piece(".weight_scale", "U8", tiled(n, k // BLOCK)),
    }


def quantize(
    weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
) -> dict[str, torch.Tensor]:
    """2^ceil(log2(amax / 448)) per block; weight (rows, k) -> codes (rows', k'), exponents."""
    from ...kernels import ops

    check_shape("mxfp8", refuses, weight)
    codes, scale = ops.quantize_mxfp8(weight)
    return {"weight": codes, "scale": scale}


def finite(tensors: Tensors) -> bool:
    """No exponent says that its block has NaN or infinity."""
    return not bool((tensors["scale"] == NOT_FINITE).any())


def dequantize(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """codes * 2^exponent -> (rows, k) float32."""
    from ...kernels import ops

    weight = tensors["weight"]
    n, k = real_shape(settings, weight.shape[0], weight.shape[1])
    return ops.dequantize_mxfp8(weight, stored(tensors, "scale"))[:n, :k]


def linear(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x mxfp8 where the device has such a product; as it is if the file says so."""
    from ...kernels import ops

    weight, scale = tensors["weight"], stored(tensors, "scale")

    def run(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if full_precision(settings):
            return ops.linear(x, ops.dequantize_mxfp8(weight, scale), bias)
        return ops.mxfp8_linear(x, weight, scale, bias)

    n, k = weight.shape
    return filled_linear(run, x, bias, (n, k), settings)


SCHEME = Scheme(
    name="mxfp8",
    title="MXFP8: e4m3, a power of two per 32 inputs of a row",
    bits=8.25,
    granularity=Group(BLOCK),
    format_id="mxfp8",
    config=config,
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    worst_error=0.03,
    row_step=ROWS,
    row_tile={"scale": ROWS},
    finite=finite,
    refuses=refuses,
    aliases={"mx-fp8": None, "microscaling-fp8": None},
)
