"""ComfyUI's own formats with block scales or rotated four-bit codes: the formula is the docstring.

Weights are (N, K); `ops.py` hands these out with the others. Scales are chosen in float32, what is
written is what comfy-kitchen writes for the weight in float32, bit for bit.
"""

from __future__ import annotations

import torch

from . import registry
from .arguments import check_divides, check_shape, matrix, row_scale, run_linear
from .tiles import tiled_shape

Tensor = torch.Tensor


def quantize_mxfp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Per 32 inputs of a row: 2^e, e = ceil(log2(max(amax / 448, 2^-127))), q = e4m3(w / 2^e).

    (N, K) -> q (N', K') e4m3, both filled up with zeros to a multiple of 32; e + 127 as uint8,
    tiled (tiles.py). A block of zeros has byte 0, which reads as 0; one that is not finite has 255.
    """
    result: tuple[Tensor, Tensor] = registry.run("quantize_mxfp8", weight=matrix(weight))
    return result


def dequantize_mxfp8(weight: Tensor, scale: Tensor) -> Tensor:
    """w[n, k] = float32(q[n, k]) * 2^(e[n, k // 32] - 127): (N, K), K a multiple of 32."""
    scale = _blocks(scale, weight.shape[0], weight.shape[1], 32)
    result: Tensor = registry.run("dequantize_mxfp8", weight=matrix(weight), scale=scale)
    return result


def mxfp8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x' w.T + bias with x' = x in mxfp8; a device without such arithmetic may leave x."""
    scale = _blocks(scale, weight.shape[0], weight.shape[1], 32)
    return run_linear("mxfp8_linear", x, weight, bias, scale=scale)


def quantize_nvfp4(weight: Tensor, whole_amax: Tensor | None = None) -> tuple[Tensor, ...]:
    """t = amax of the whole / 2688 (1 where that is 0); per 16 inputs s = e4m3((amax / 6) / t).

    q = e2m1(clamp(w / (t * s), -6, 6)), 0 where s is 0. (N, K) -> q (N', K' / 2) uint8, both filled
    up with zeros to a multiple of 16, even inputs in the high nibble; s tiled as uint8; t () float.
    """
    if whole_amax is None and not weight.numel():
        whole_amax = weight.new_zeros((), dtype=torch.float32)
    if whole_amax is None:
        with registry.use_backend(None):
            whole_amax = registry.run("amax", weight=weight)
    scale_2 = whole_amax.to(torch.float32) / 2688.0
    scale_2 = torch.where(scale_2 == 0, 1.0, scale_2)
    codes, scale = registry.run("quantize_nvfp4", weight=matrix(weight), scale_2=scale_2)
    return codes, scale, scale_2


def dequantize_nvfp4(weight: Tensor, scale: Tensor, scale_2: Tensor) -> Tensor:
    """w[n, k] = e2m1(q[n, k]) * (t * s[n, k // 16]): (N, K / 2) uint8 -> (N, K) float32."""
    inputs = 2 * weight.shape[1]
    result: Tensor = registry.run(
        "dequantize_nvfp4",
        weight=matrix(weight),
        scale=_blocks(scale, weight.shape[0], inputs, 16),
        scale_2=row_scale(scale_2, 1, weight.device),
    )
    return result


def nvfp4_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    scale_2: Tensor,
    bias: Tensor | None = None,
    input_scale: Tensor | None = None,
) -> Tensor:
    """y = x' w.T + bias, x' = x in nvfp4 with t = `input_scale` or its own; x may stay as it is."""
    inputs, device = 2 * weight.shape[1], weight.device
    return run_linear(
        "nvfp4_linear",
        x,
        weight,
        bias,
        inputs=inputs,
        scale=_blocks(scale, weight.shape[0], inputs, 16),
        scale_2=row_scale(scale_2, 1, device),
        input_scale=None if input_scale is None else row_scale(input_scale, 1, device),
    )


def quantize_w4a4(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """r = rotate_groups(w), s = max(row amax, 1e-10) / 7, q = clamp(round(r / s), -7, 7).

    (N, K) -> q (N, K / 2) int8, even inputs in the low nibble; s (N) float32.
    """
    check_divides(weight, group_size)
    result: tuple[Tensor, Tensor] = registry.run(
        "quantize_w4a4", weight=matrix(weight), group_size=group_size
    )
    return result


def dequantize_w4a4(weight: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """w = rotate_groups(q * s): (N, K / 2) int8, N scales -> (N, K) float32."""
    scale = row_scale(scale, weight.shape[0], weight.device)
    result: Tensor = registry.run(
        "dequantize_w4a4", weight=matrix(weight), scale=scale, group_size=group_size
    )
    return result


def w4a4_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    group_size: int,
    bias: Tensor | None = None,
    input_bits: int = 4,
) -> Tensor:
    """y[m, n] = (xq q.T)[m, n] * sx[m] * s[n] + bias[n], with xq, sx as quantize_w4a4 of x.

    With 8 `input_bits`, xq and sx are quantize_int8 of the rotated x; a backend may take 4 anyhow.
    """
    return run_linear(
        "w4a4_linear",
        x,
        weight,
        bias,
        inputs=2 * weight.shape[1],
        scale=row_scale(scale, weight.shape[0], weight.device),
        group_size=group_size,
        input_bits=input_bits,
    )


def w4a8_codebook(sample: Tensor, group_size: int, rotation: int) -> Tensor:
    """16 levels for rotated rows whose groups are divided by their amax: float32 (16), rising.

    A fixed table, the best for normal numbers; where the excess kurtosis of 2^19 of them is above
    -0.1, 25 rounds of Lloyd's algorithm on 300000 of them. `sample` (R, K) are rows of the weight.
    """
    check_divides(sample, rotation)
    check_divides(sample, group_size)
    result: Tensor = registry.run(
        "w4a8_codebook", sample=matrix(sample), group_size=group_size, rotation=rotation
    )
    return result


def quantize_w4a8(
    weight: Tensor, codebook: Tensor, group_size: int, rotation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """r = rotate_groups(w); per group the level of each r / g and g itself, fitted twice in turn.

    g starts as the amax and becomes <r, levels> / <levels, levels>. channel c = row amax of
    level * g / 127, s = e4m3(g / c), q = the nearest of the 16 numbers round(level * s) to r / c.
    (N, K) -> q (N, K / 2) int8, even inputs in the low nibble; s (N, K / group_size); c (N) float.
    """
    check_divides(weight, rotation)
    check_divides(weight, group_size)
    result: tuple[Tensor, Tensor, Tensor] = registry.run(
        "quantize_w4a8",
        weight=matrix(weight),
        codebook=check_shape("codebook", codebook, (16,)),
        group_size=group_size,
        rotation=rotation,
    )
    return result


def dequantize_w4a8(
    weight: Tensor, scale: Tensor, channel: Tensor, codebook: Tensor | None, rotation: int
) -> Tensor:
    """w = rotate_groups(clamp(round(level[q] * s), -127, 127) * c); without levels q - 8."""
    result: Tensor = registry.run(
        "dequantize_w4a8", **_w4a8(weight, scale, channel, codebook), rotation=rotation
    )
    return result


def w4a8_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    channel: Tensor,
    codebook: Tensor | None,
    rotation: int,
    bias: Tensor | None = None,
) -> Tensor:
    """int8_convrot_linear(x, clamp(round(level[q] * s), -127, 127), c, rotation, bias)."""
    call = _w4a8(weight, scale, channel, codebook)
    del call["weight"]
    inputs = 2 * weight.shape[1]
    return run_linear("w4a8_linear", x, weight, bias, inputs=inputs, rotation=rotation, **call)


def _w4a8(
    weight: Tensor, scale: Tensor, channel: Tensor, codebook: Tensor | None
) -> dict[str, Tensor | None]:
    """The stored tensors as backends take them: scale e4m3 (N, groups), channel (N, 1)."""
    rows, inputs = weight.shape[0], 2 * weight.shape[1]
    groups = scale.shape[-1]
    if scale.ndim != 2 or scale.shape[0] != rows or not groups or inputs % groups:
        raise ValueError(f"scale {tuple(scale.shape)} does not fit {rows} rows, {inputs} inputs")
    return {
        "weight": matrix(weight),
        "scale": scale.view(torch.float8_e4m3fn) if scale.dtype == torch.uint8 else scale,
        "channel": row_scale(channel, rows, weight.device).expand(rows, 1),
        "codebook": None if codebook is None else codebook.to(torch.float32).reshape(16),
    }


def _blocks(scale: Tensor, rows: int, inputs: int, size: int) -> Tensor:
    """Tiled scales of blocks of `size` inputs, as bytes."""
    if inputs % size:
        raise ValueError(f"blocks of {size} do not divide {inputs} inputs")
    stored = scale.view(torch.uint8)
    return check_shape("tiled scales", stored, tiled_shape(rows, inputs // size))
