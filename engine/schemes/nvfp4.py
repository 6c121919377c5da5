"""A weight in, e2m1 codes, an e4m3 scale for each 16 inputs of a row and one for all of it out.

The block scales lie in tiles of 128 rows x 4 blocks; codes are filled up to multiples of 16, two to
a byte, the even input in the high half.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..scheme import Group, Piece, Scheme
from ..tiling import ROWS, filled, tiled
from ._filled import filled_linear, original, real_shape
from ._storage import check_shape, full_precision, stored
from ._whole import LARGEST

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors

BLOCK = 16


def refuses(n: int, k: int) -> str | None:
    """Fewer inputs than one block has."""
    return f"{k} inputs are less than one block of {BLOCK}" if k < BLOCK else None


def config(n: int, k: int) -> Mapping[str, object]:
    """The shape of the weight where the codes are filled up."""
    return original(n, k, BLOCK)


def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
    """{role: Piece}: codes U8 (n', k' / 2), e4m3 scales as bytes, tiled, one float32 scale."""
    n, k = filled(n, BLOCK), filled(k, BLOCK)
    return {
        "weight": Piece(".weight", "U8", (n, k // 2)),
        "scale": Piece(".weight_scale", "U8", tiled(n, k // BLOCK)),
        "scale_2": Piece(".weight_scale_2", "F32", ()),
    }


def quantize(
    weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
) -> dict[str, torch.Tensor]:
    """t = amax / 2688, s = e4m3(block amax / 6 / t), q = e2m1(w / (t s)); `whole` is the amax."""
    from ...kernels import ops

    check_shape("nvfp4", refuses, weight)
    codes, scale, scale_2 = ops.quantize_nvfp4(weight, whole)
    return {"weight": codes, "scale": scale, "scale_2": scale_2}


def dequantize(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """codes * (t s) -> (rows, k) float32, times the smoothing of the inputs where there is one."""
    import torch

    values = _values(tensors)
    n, k = real_shape(settings, values.shape[0], values.shape[1])
    smooth = tensors.get("pre_quant_scale")
    values = values[:n, :k]
    return values if smooth is None else values * smooth.to(torch.float32)[:k]


def linear(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x smoothed, then nvfp4 where the device has such a product; as it is if the file says so."""
    from ...kernels import ops

    weight, smooth = tensors["weight"], tensors.get("pre_quant_scale")
    scales = stored(tensors, "scale"), stored(tensors, "scale_2")

    def run(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if full_precision(settings):
            return ops.linear(x, _values(tensors), bias)
        return ops.nvfp4_linear(x, weight, *scales, bias, tensors.get("input_scale"))

    if smooth is not None:
        x = x * smooth.to(x.dtype)[: x.shape[-1]]
    return filled_linear(run, x, bias, (weight.shape[0], 2 * weight.shape[1]), settings)


def _values(tensors: Tensors) -> torch.Tensor:
    from ...kernels import ops

    return ops.dequantize_nvfp4(
        tensors["weight"], stored(tensors, "scale"), stored(tensors, "scale_2")
    )


SCHEME = Scheme(
    name="nvfp4",
    title="NVFP4: e2m1, an e4m3 scale per 16 inputs of a row",
    bits=4.5,
    granularity=Group(BLOCK),
    format_id="nvfp4",
    config=config,
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    worst_error=0.1,
    row_step=ROWS,
    row_tile={"scale": ROWS},
    survey=LARGEST,
    refuses=refuses,
    aliases={"fp4": None, "nv-fp4": None},
)
