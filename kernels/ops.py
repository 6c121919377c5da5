"""The public ops: tensors in, tensors out, one function for each; the formula is the docstring.

Weights are (N, K): N outputs, K inputs; bfloat16, float16 or float32, contiguous or not. Scales are
chosen in float32. A linear takes x (..., K) and gives (..., N) in x's dtype.
"""

from __future__ import annotations

import torch

from . import registry
from .arguments import (
    check_divides,
    check_groups,
    check_tiles,
    matrix,
    row_scale,
    run_linear,
    run_packed,
)
from .block_ops import (
    dequantize_mxfp8,
    dequantize_nvfp4,
    dequantize_w4a4,
    dequantize_w4a8,
    mxfp8_linear,
    nvfp4_linear,
    quantize_mxfp8,
    quantize_nvfp4,
    quantize_w4a4,
    quantize_w4a8,
    w4a4_linear,
    w4a8_codebook,
    w4a8_linear,
)
from .fused_ops import (
    add_low_rank,
    fp8_block128_low_rank_linear,
    fp8_row_low_rank_linear,
    int4_low_rank_linear,
    int8_low_rank_linear,
    quantize_activations,
)

__all__ = [  # of block_ops.py, the formats of ComfyUI with block scales, and of fused_ops.py
    "add_low_rank",
    "dequantize_mxfp8",
    "dequantize_nvfp4",
    "dequantize_w4a4",
    "dequantize_w4a8",
    "fp8_block128_low_rank_linear",
    "fp8_row_low_rank_linear",
    "int4_low_rank_linear",
    "int8_low_rank_linear",
    "mxfp8_linear",
    "nvfp4_linear",
    "quantize_activations",
    "quantize_mxfp8",
    "quantize_nvfp4",
    "quantize_w4a4",
    "quantize_w4a8",
    "w4a4_linear",
    "w4a8_codebook",
    "w4a8_linear",
]

Tensor = torch.Tensor
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def amax(weight: Tensor) -> Tensor:
    """max |w| over the whole tensor as a float32 scalar; 0 for an empty one.

    NaN anywhere gives NaN, infinity gives infinity: the caller refuses what is not finite.
    """
    if weight.numel() == 0:
        return torch.zeros((), dtype=torch.float32, device=weight.device)
    result: Tensor = registry.run("amax", weight=weight)
    return result


def row_amax(weight: Tensor) -> Tensor:
    """max |w| over the last dimension: (N, K) -> (N, 1) float32. NaN and infinity are kept."""
    if weight.shape[-1] == 0:
        return torch.zeros((*weight.shape[:-1], 1), dtype=torch.float32, device=weight.device)
    result: Tensor = registry.run("row_amax", weight=weight)
    return result


def rotate_groups(weight: Tensor, group_size: int) -> Tensor:
    """w (N, K) -> float32 (N, K): each run of `group_size` inputs times H, the regular Hadamard.

    H is symmetric and H H = I, so the same call rotates back. `group_size` is a power of 4 that
    divides K.
    """
    check_divides(weight, group_size)
    result: Tensor = registry.run("rotate_groups", weight=matrix(weight), group_size=group_size)
    return result


def quantize_fp8(
    weight: Tensor, whole_amax: Tensor | None = None, dtype: torch.dtype = E4M3
) -> tuple[Tensor, Tensor]:
    """scale = max(amax / top, 1e-30), q = cast(clamp(w * (1 / scale), -top, top)); scale is ().

    top = 448 for e4m3 and 57344 for e5m2. `whole_amax` is the amax that counts when `weight` is a
    run of rows.
    """
    largest = whole_amax
    if largest is None:
        with registry.use_backend(None):  # the same number wherever it is taken
            largest = amax(weight)
    result: tuple[Tensor, Tensor] = registry.run(
        "quantize_fp8", weight=matrix(weight), amax=largest, dtype=dtype
    )
    return result


def dequantize_fp8(weight: Tensor, scale: Tensor | None = None) -> Tensor:
    """w = float32(q) * scale: (N, K) e4m3 or e5m2 -> float32. 1 or N scales; None means 1."""
    result: Tensor = registry.run(
        "dequantize_fp8",
        weight=matrix(weight),
        scale=row_scale(scale, weight.shape[0], weight.device),
    )
    return result


def fp8_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None = None,
    input_scale: Tensor | None = None,
) -> Tensor:
    """y = (xq wq.T) * (sx * scale) + bias, xq = e4m3(clamp(x / sx, -448, 448)).

    sx = `input_scale`, or max(amax(x) / 448, 1e-30) where there is none. A device without fp8
    arithmetic may leave x as it is.
    """
    scale = row_scale(scale, weight.shape[0], weight.device)
    return run_linear("fp8_linear", x, weight, bias, scale=scale, input_scale=input_scale)


def fp8_weight_only_linear(
    x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None = None
) -> Tensor:
    """y = x (float(q) * scale).T + bias with x as it is; `scale` has 1 or N numbers."""
    scale = row_scale(scale, weight.shape[0], weight.device)
    return run_linear("fp8_weight_only_linear", x, weight, bias, scale=scale)


def quantize_fp8_row(weight: Tensor) -> tuple[Tensor, Tensor]:
    """scale = max(row amax, 1e-5) / 448, q = e4m3(clamp(w / scale, -448, 448)); scale is (N, 1)."""
    result: tuple[Tensor, Tensor] = registry.run("quantize_fp8_row", weight=matrix(weight))
    return result


def fp8_row_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """y[m, n] = (xq wq.T)[m, n] * sx[m] * scale[n] + bias[n], xq = e4m3(x / sx).

    sx = max(row amax / 448, 1e-30). A device without fp8 arithmetic may leave x as it is.
    """
    scale = row_scale(scale, weight.shape[0], weight.device)
    return run_linear("fp8_row_linear", x, weight, bias, scale=scale)


def quantize_fp8_block128(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Per 128 x 128 tile: scale = max(amax, 1e-4) / 448, q = e4m3(clamp(w / scale, -448, 448)).

    scale is (ceil(N / 128), ceil(K / 128)); the last tiles are filled up with zeros.
    """
    result: tuple[Tensor, Tensor] = registry.run("quantize_fp8_block128", weight=matrix(weight))
    return result


def dequantize_fp8_block128(weight: Tensor, scale: Tensor) -> Tensor:
    """w[n, k] = float32(q[n, k]) * scale[n // 128, k // 128]."""
    result: Tensor = registry.run(
        "dequantize_fp8_block128", weight=matrix(weight), scale=check_tiles(weight, scale)
    )
    return result


def fp8_block128_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    """y[m, n] = sum over blocks b of sx[m, b] * scale[n // 128, b] * (xq wq.T)[m, n, b] + bias[n].

    xq = e4m3(x / sx), sx[m, b] = max(amax of x's 128 inputs in block b, 1e-10) / 448. A device
    without fp8 arithmetic may leave x as it is.
    """
    return run_linear("fp8_block128_linear", x, weight, bias, scale=check_tiles(weight, scale))


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """scale (N, 1) = max(row amax / 127, 1e-30), q = clamp(round(w / scale), -128, 127)."""
    result: tuple[Tensor, Tensor] = registry.run("quantize_int8", weight=matrix(weight))
    return result


def pack_int8(weight: Tensor) -> Tensor:
    """int8 codes (N, K) in the order that this machine multiplies them fastest in.

    Where that is an order of its own the result is opaque (`is_mkldnn`), as large as the rows and
    meant to take their place: every int8 op here takes either. Elsewhere it is the rows themselves.
    """
    result: Tensor = registry.run("pack_int8", weight=matrix(weight))
    return result


def unpack_int8(weight: Tensor) -> Tensor:
    """The codes (N, K) of what `pack_int8` gave; rows come back as they are."""
    if not weight.is_mkldnn:
        return weight
    result: Tensor = registry.run("unpack_int8", weight=weight)
    return result


def dequantize_int8(weight: Tensor, scale: Tensor) -> Tensor:
    """w = float32(q) * scale; `scale` has 1 or N numbers."""
    weight = unpack_int8(weight)
    result: Tensor = registry.run(
        "dequantize_int8",
        weight=matrix(weight),
        scale=row_scale(scale, weight.shape[0], weight.device),
    )
    return result


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """y[m, n] = (xq wq.T)[m, n] * sx[m] * scale[n] + bias[n], with xq, sx = quantize_int8(x)."""
    if weight.is_mkldnn:
        return run_packed("int8_packed_linear", x, weight, bias, scale, 0)
    scale = row_scale(scale, weight.shape[0], weight.device)
    return run_linear("int8_linear", x, weight, bias, scale=scale)


def int8_weight_only_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    """y = x (float(q) * scale).T + bias with x as it is; `scale` has 1 or N numbers."""
    weight = unpack_int8(weight)
    scale = row_scale(scale, weight.shape[0], weight.device)
    return run_linear("int8_weight_only_linear", x, weight, bias, scale=scale)


def quantize_int8_convrot(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """quantize_int8(rotate_groups(w, group_size)), the rotation in float32; scale is (N, 1)."""
    check_divides(weight, group_size)
    result: tuple[Tensor, Tensor] = registry.run(
        "quantize_int8_convrot", weight=matrix(weight), group_size=group_size
    )
    return result


def dequantize_int8_convrot(weight: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """w = rotate_groups(float32(q) * scale, group_size), the rotation as one matmul."""
    weight = unpack_int8(weight)
    check_divides(weight, group_size)
    scale = row_scale(scale, weight.shape[0], weight.device)
    result: Tensor = registry.run(
        "dequantize_int8_convrot", weight=matrix(weight), scale=scale, group_size=group_size
    )
    return result


def int8_convrot_linear(
    x: Tensor, weight: Tensor, scale: Tensor, group_size: int, bias: Tensor | None = None
) -> Tensor:
    """int8_linear(rotate_groups(x, group_size), weight, scale, bias): the two rotations cancel."""
    if weight.is_mkldnn:
        return run_packed("int8_packed_linear", x, weight, bias, scale, group_size)
    check_divides(weight, group_size)
    scale = row_scale(scale, weight.shape[0], weight.device)
    return run_linear("int8_convrot_linear", x, weight, bias, scale=scale, group_size=group_size)


def quantize_int4(
    weight: Tensor, group_size: int = 128, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor]:
    """Per run of `group_size` inputs: s = 2 * amax / 15, rounded to `dtype`, at least tiny.

    u = clamp(round(w / s) + 8, 0, 15), packed (N, K / 2) int8: low nibble = even input, high = odd.
    scale is (K / group_size, N) `dtype`.
    """
    check_divides(weight, group_size)
    result: tuple[Tensor, Tensor] = registry.run(
        "quantize_int4", weight=matrix(weight), group_size=group_size, dtype=dtype
    )
    return result


def dequantize_int4(
    weight: Tensor, scale: Tensor, zeros: Tensor | None = None, group_size: int = 128
) -> Tensor:
    """w[n, k] = (u[n, k] - 8) * scale[k // g, n] + zeros[k // g, n]: (N, K / 2) -> (N, K)."""
    check_groups(weight, scale, group_size)
    result: Tensor = registry.run(
        "dequantize_int4", weight=matrix(weight), scale=scale, zeros=zeros, group_size=group_size
    )
    return result


def int4_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zeros: Tensor | None = None,
    group_size: int = 128,
    bias: Tensor | None = None,
) -> Tensor:
    """y = x dequantize_int4(weight, scale, zeros, group_size).T + bias with x as it is."""
    check_groups(weight, scale, group_size)
    return run_linear(
        "int4_linear",
        x,
        weight,
        bias,
        inputs=weight.shape[1] * 2,
        scale=scale,
        zeros=zeros,
        group_size=group_size,
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x w.T + bias, in x's dtype."""
    return run_linear("linear", x, weight, bias)
