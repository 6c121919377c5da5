"""A weight in, int8 codes of its rotated inputs and one scale for each output row out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..scheme import Piece, Row, Scheme
from ._storage import check_shape, full_precision, group_size, row_scale, shape_of, weight_and_scale

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors

# the rotation takes the largest of these powers of 4 that divides the inputs
GROUP_SIZES = (256, 64, 16)


def rotation(k: int) -> int | None:
    """The group that `k` inputs are rotated in; None when no power of 4 from 16 on divides them."""
    return next((size for size in GROUP_SIZES if k % size == 0), None)


def refuses(n: int, k: int) -> str | None:
    """Inputs that no rotation group divides."""
    return None if rotation(k) else f"{k} inputs are no multiple of 16, the smallest rotation group"


def config(n: int, k: int) -> Mapping[str, object]:
    """The rotation, as the layer's JSON says it."""
    return {"convrot": True, "convrot_groupsize": rotation(k)}


def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
    """{role: Piece}: codes I8 (n, k), float32 scale (n, 1)."""
    return weight_and_scale("I8", n, k, (n, 1))


def quantize(
    weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
) -> dict[str, torch.Tensor]:
    """int8 per row of the rotated weight: weight (rows, k) -> codes (rows, k), scale (rows, 1)."""
    from ...kernels import ops

    check_shape("int8_convrot", refuses, weight)
    codes, scale = ops.quantize_int8_convrot(weight, rotation(weight.shape[1]) or 0)
    return {"weight": codes, "scale": scale}


def dequantize(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """codes * scale, rotated back -> (rows, k) float32."""
    from ...kernels import ops

    weight = tensors["weight"]
    size = group_size(settings, "convrot_groupsize", 256, shape_of(weight)[1], power_of_four=True)
    return ops.dequantize_int8_convrot(weight, row_scale(tensors), size)


def turned(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """codes * scale, still rotated -> (rows, k) float32."""
    from ...kernels import ops

    return ops.dequantize_int8(tensors["weight"], row_scale(tensors))


def linear(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x rotated, then int8 with one scale per token; as it is if the file says so."""
    from ...kernels import ops

    weight = tensors["weight"]
    size = group_size(settings, "convrot_groupsize", 256, shape_of(weight)[1], power_of_four=True)
    if full_precision(settings):  # the rotations cancel here as well: the weight is not turned back
        turned = ops.rotate_groups(x.reshape(-1, x.shape[-1]), size).to(x.dtype)
        return ops.int8_weight_only_linear(turned.view(x.shape), weight, row_scale(tensors), bias)
    return ops.int8_convrot_linear(x, weight, row_scale(tensors), size, bias)


SCHEME = Scheme(
    name="int8_convrot",
    title="INT8 after a Hadamard rotation, one scale per output row",
    bits=8,
    granularity=Row(),
    format_id="int8_tensorwise",
    config=config,
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    worst_error=0.012,
    refuses=refuses,
    rotated=rotation,
    turned=turned,
    aliases={"convrot": None, "int8-tensorwise-convrot": None},
)
