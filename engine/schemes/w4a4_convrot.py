"""A weight in, 4-bit codes of its rotated inputs, two to a byte, and one scale for each row out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..scheme import Piece, Row, Scheme
from ._storage import check_shape, full_precision, group_size, row_scale, weight_and_scale

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors

# ComfyUI multiplies in groups of 64 inputs; the rotation takes the largest of these that fits
GROUP_SIZES = (256, 64)
ROWS = 64  # the last rows of a product may be summed in another order: runs are whole ones


def rotation(k: int) -> int | None:
    """The group that `k` inputs are rotated in, None where there is none."""
    return next((size for size in GROUP_SIZES if k % size == 0), None)


def refuses(n: int, k: int) -> str | None:
    """Inputs that groups of 64 do not divide."""
    return None if rotation(k) else f"{k} inputs are no multiple of {GROUP_SIZES[-1]}"


def config(n: int, k: int) -> Mapping[str, object]:
    """The rotation, as the layer's JSON says it."""
    return {"convrot_groupsize": rotation(k)}


def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
    """{role: Piece}: codes I8 (n, k / 2), float32 scale (n)."""
    return weight_and_scale("I8", n, k // 2, (n,))


def quantize(
    weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
) -> dict[str, torch.Tensor]:
    """row amax / 7 of the rotated weight: (rows, k) -> codes (rows, k / 2), scale (rows)."""
    from ...kernels import ops

    check_shape("w4a4_convrot", refuses, weight)
    codes, scale = ops.quantize_w4a4(weight, rotation(weight.shape[1]) or 0)
    return {"weight": codes, "scale": scale}


def dequantize(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """codes * scale, rotated back -> (rows, k) float32."""
    from ...kernels import ops

    return ops.dequantize_w4a4(tensors["weight"], row_scale(tensors), _rotation(tensors, settings))


def linear(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x rotated, then in 4 or 8 bits with one scale per token; as it is if the file says so."""
    from ...kernels import ops

    if full_precision(settings):
        return ops.linear(x, dequantize(tensors, settings), bias)
    bits, size = 8 if settings.get("linear_dtype") == "int8" else 4, _rotation(tensors, settings)
    return ops.w4a4_linear(x, tensors["weight"], row_scale(tensors), size, bias, bits)


def _rotation(tensors: Tensors, settings: Mapping[str, object]) -> int:
    inputs = 2 * tensors["weight"].shape[1]
    return group_size(settings, "convrot_groupsize", 256, inputs, power_of_four=True)


SCHEME = Scheme(
    name="w4a4_convrot",
    title="INT4 after a Hadamard rotation, activations in 4 bits too",
    bits=4,
    granularity=Row(),
    format_id="convrot_w4a4",
    config=config,
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    worst_error=0.16,
    row_step=ROWS,
    refuses=refuses,
    aliases={"convrot-w4a4": None, "w4a4": None, "int4-convrot": None},
)
