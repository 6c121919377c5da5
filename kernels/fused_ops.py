"""Two steps of a layer as one op: activations made and quantized, a product and a low-rank branch.

`ops.py` hands these out with the others. x is (..., K), a weight (N, K); scales and sums are
float32.
"""

from __future__ import annotations

import torch

from . import registry
from .arguments import check_groups, check_tiles, matrix, row_scale, run_linear

Tensor = torch.Tensor
E4M3 = torch.float8_e4m3fn
BEFORE = ("none", "layer_norm", "silu", "gelu", "gelu_tanh")
GROUP = 128


def quantize_activations(
    x: Tensor,
    dtype: torch.dtype = torch.int8,
    group_size: int = 0,
    before: str = "none",
    gain: Tensor | None = None,
    shift: Tensor | None = None,
    epsilon: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """v = before(x) in float32, then codes (M, K) and scales (M, 1), or (M, ceil(K / 128)).

    int8: quantize_int8(v). e4m3: s = max(amax / 448, 1e-30) a row; with `group_size` 128
    s = max(amax, 1e-10) / 448 a group. q = e4m3(clamp(v / s, -448, 448)). layer_norm is
    (x - mean) / sqrt(var + epsilon) * gain + shift with gain and shift (K), 1 and 0 without.
    """
    if before not in BEFORE:
        raise ValueError(f"before is one of {', '.join(BEFORE)}, not {before}")
    if dtype not in (torch.int8, E4M3) or group_size not in (0, GROUP):
        raise ValueError(
            f"codes are int8 or e4m3, a row or 128 share a scale: {dtype}, {group_size}"
        )
    rows = matrix(x.reshape(-1, x.shape[-1]))
    for given in (gain, shift):
        if given is not None and (before != "layer_norm" or given.numel() != rows.shape[1]):
            raise ValueError(f"gain and shift are of layer_norm, {rows.shape[1]} numbers each")
    result: tuple[Tensor, Tensor] = registry.run(
        "quantize_activations", x=rows, dtype=dtype, group_size=group_size, before=before,
        gain=gain, shift=shift, epsilon=epsilon,
    )  # fmt: skip
    return result


def add_low_rank(y: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """y + (x down.T) up.T for y (..., N), which may be written over, down (R, K) and up (N, R).

    What a linear without an op of its own for it is followed by; x down.T may be rounded to x's
    dtype.
    """
    if not x.numel() or not y.numel():
        return y
    down, up = _branch(x, up, down, up)
    rows, outputs = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    result: Tensor = registry.run("add_low_rank", x=rows, y=outputs, down=down, up=up)
    return result.reshape(y.shape)


def int8_low_rank_linear(
    x: Tensor, weight: Tensor, scale: Tensor, down: Tensor, up: Tensor, bias: Tensor | None = None
) -> Tensor:
    """y = int8_linear(x, weight, scale, bias) + (x down.T) up.T, down (R, K), up (N, R)."""
    scale = row_scale(scale, weight.shape[0], weight.device)
    down, up = _branch(x, weight, down, up)
    return run_linear("int8_low_rank_linear", x, weight, bias, scale=scale, down=down, up=up)


def fp8_row_low_rank_linear(
    x: Tensor, weight: Tensor, scale: Tensor, down: Tensor, up: Tensor, bias: Tensor | None = None
) -> Tensor:
    """y = fp8_row_linear(x, weight, scale, bias) + (x down.T) up.T."""
    scale = row_scale(scale, weight.shape[0], weight.device)
    down, up = _branch(x, weight, down, up)
    return run_linear("fp8_row_low_rank_linear", x, weight, bias, scale=scale, down=down, up=up)


def fp8_block128_low_rank_linear(
    x: Tensor, weight: Tensor, scale: Tensor, down: Tensor, up: Tensor, bias: Tensor | None = None
) -> Tensor:
    """y = fp8_block128_linear(x, weight, scale, bias) + (x down.T) up.T."""
    scale, (down, up) = check_tiles(weight, scale), _branch(x, weight, down, up)
    op = "fp8_block128_low_rank_linear"
    return run_linear(op, x, weight, bias, scale=scale, down=down, up=up)


def int4_low_rank_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    down: Tensor,
    up: Tensor,
    zeros: Tensor | None = None,
    group_size: int = GROUP,
    bias: Tensor | None = None,
) -> Tensor:
    """y = int4_linear(x, weight, scale, zeros, group_size, bias) + (x down.T) up.T."""
    check_groups(weight, scale, group_size)
    down, up = _branch(x, weight, down, up)
    return run_linear(
        "int4_low_rank_linear", x, weight, bias, inputs=weight.shape[1] * 2, scale=scale,
        zeros=zeros, group_size=group_size, down=down, up=up,
    )  # fmt: skip


def _branch(x: Tensor, weight: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in x's dtype, contiguous; x down.T is rounded to it in between."""
    inner, outputs = (down.shape[0], x.shape[-1]), (weight.shape[0], down.shape[0])
    if tuple(down.shape) != inner or tuple(up.shape) != outputs or not down.shape[0]:
        raise ValueError(
            f"down {tuple(down.shape)} and up {tuple(up.shape)} do not fit: "
            f"(R, {x.shape[-1]}) and ({weight.shape[0]}, R) with R at least 1"
        )
    return down.to(x.dtype).contiguous(), up.to(x.dtype).contiguous()
