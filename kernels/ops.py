"""The public ops: tensors in, tensors out, one function for each; the formula is the docstring.

Weights are (N, K): N outputs, K inputs; bfloat16, float16 or float32, contiguous or not. Scales are
chosen in float32. A linear takes x (..., K) and gives (..., N) in x's dtype.
"""

from __future__ import annotations

import torch

from . import registry

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
    _divides(weight, group_size)
    result: Tensor = registry.run("rotate_groups", weight=_matrix(weight), group_size=group_size)
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
        "quantize_fp8", weight=_matrix(weight), amax=largest, dtype=dtype
    )
    return result


def dequantize_fp8(weight: Tensor, scale: Tensor | None = None) -> Tensor:
    """w = float32(q) * scale: (N, K) e4m3 or e5m2 -> float32. 1 or N scales; None means 1."""
    result: Tensor = registry.run(
        "dequantize_fp8",
        weight=_matrix(weight),
        scale=_scale(scale, weight.shape[0], weight.device),
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
    scale = _scale(scale, weight.shape[0], weight.device)
    return _linear("fp8_linear", x, weight, bias, scale=scale, input_scale=input_scale)


def fp8_weight_only_linear(
    x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None = None
) -> Tensor:
    """y = x (float(q) * scale).T + bias with x as it is; `scale` has 1 or N numbers."""
    scale = _scale(scale, weight.shape[0], weight.device)
    return _linear("fp8_weight_only_linear", x, weight, bias, scale=scale)


def quantize_fp8_row(weight: Tensor) -> tuple[Tensor, Tensor]:
    """scale = max(row amax, 1e-5) / 448, q = e4m3(clamp(w / scale, -448, 448)); scale is (N, 1)."""
    result: tuple[Tensor, Tensor] = registry.run("quantize_fp8_row", weight=_matrix(weight))
    return result


def fp8_row_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """y[m, n] = (xq wq.T)[m, n] * sx[m] * scale[n] + bias[n], xq = e4m3(x / sx).

    sx = max(row amax / 448, 1e-30). A device without fp8 arithmetic may leave x as it is.
    """
    scale = _scale(scale, weight.shape[0], weight.device)
    return _linear("fp8_row_linear", x, weight, bias, scale=scale)


def quantize_fp8_block128(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Per 128 x 128 tile: scale = max(amax, 1e-4) / 448, q = e4m3(clamp(w / scale, -448, 448)).

    scale is (ceil(N / 128), ceil(K / 128)); the last tiles are filled up with zeros.
    """
    result: tuple[Tensor, Tensor] = registry.run("quantize_fp8_block128", weight=_matrix(weight))
    return result


def dequantize_fp8_block128(weight: Tensor, scale: Tensor) -> Tensor:
    """w[n, k] = float32(q[n, k]) * scale[n // 128, k // 128]."""
    result: Tensor = registry.run(
        "dequantize_fp8_block128", weight=_matrix(weight), scale=_tiles(weight, scale)
    )
    return result


def fp8_block128_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    """y[m, n] = sum over blocks b of sx[m, b] * scale[n // 128, b] * (xq wq.T)[m, n, b] + bias[n].

    xq = e4m3(x / sx), sx[m, b] = max(amax of x's 128 inputs in block b, 1e-10) / 448. A device
    without fp8 arithmetic may leave x as it is.
    """
    return _linear("fp8_block128_linear", x, weight, bias, scale=_tiles(weight, scale))


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """scale (N, 1) = max(row amax / 127, 1e-30), q = clamp(round(w / scale), -128, 127)."""
    result: tuple[Tensor, Tensor] = registry.run("quantize_int8", weight=_matrix(weight))
    return result


def dequantize_int8(weight: Tensor, scale: Tensor) -> Tensor:
    """w = float32(q) * scale; `scale` has 1 or N numbers."""
    result: Tensor = registry.run(
        "dequantize_int8",
        weight=_matrix(weight),
        scale=_scale(scale, weight.shape[0], weight.device),
    )
    return result


def int8_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """y[m, n] = (xq wq.T)[m, n] * sx[m] * scale[n] + bias[n], with xq, sx = quantize_int8(x)."""
    scale = _scale(scale, weight.shape[0], weight.device)
    return _linear("int8_linear", x, weight, bias, scale=scale)


def int8_weight_only_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    """y = x (float(q) * scale).T + bias with x as it is; `scale` has 1 or N numbers."""
    scale = _scale(scale, weight.shape[0], weight.device)
    return _linear("int8_weight_only_linear", x, weight, bias, scale=scale)


def quantize_int8_convrot(weight: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """quantize_int8(rotate_groups(w, group_size)), the rotation in float32; scale is (N, 1)."""
    _divides(weight, group_size)
    result: tuple[Tensor, Tensor] = registry.run(
        "quantize_int8_convrot", weight=_matrix(weight), group_size=group_size
    )
    return result


def dequantize_int8_convrot(weight: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """w = rotate_groups(float32(q) * scale, group_size), the rotation as one matmul."""
    _divides(weight, group_size)
    scale = _scale(scale, weight.shape[0], weight.device)
    result: Tensor = registry.run(
        "dequantize_int8_convrot", weight=_matrix(weight), scale=scale, group_size=group_size
    )
    return result


def int8_convrot_linear(
    x: Tensor, weight: Tensor, scale: Tensor, group_size: int, bias: Tensor | None = None
) -> Tensor:
    """int8_linear(rotate_groups(x, group_size), weight, scale, bias): the two rotations cancel."""
    _divides(weight, group_size)
    scale = _scale(scale, weight.shape[0], weight.device)
    return _linear("int8_convrot_linear", x, weight, bias, scale=scale, group_size=group_size)


def quantize_int4(
    weight: Tensor, group_size: int = 128, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor]:
    """Per run of `group_size` inputs: s = 2 * amax / 15, rounded to `dtype`, at least tiny.

    u = clamp(round(w / s) + 8, 0, 15), packed (N, K / 2) int8: low nibble = even input, high = odd.
    scale is (K / group_size, N) `dtype`.
    """
    _divides(weight, group_size)
    result: tuple[Tensor, Tensor] = registry.run(
        "quantize_int4", weight=_matrix(weight), group_size=group_size, dtype=dtype
    )
    return result


def dequantize_int4(
    weight: Tensor, scale: Tensor, zeros: Tensor | None = None, group_size: int = 128
) -> Tensor:
    """w[n, k] = (u[n, k] - 8) * scale[k // g, n] + zeros[k // g, n]: (N, K / 2) -> (N, K)."""
    _groups(weight, scale, group_size)
    result: Tensor = registry.run(
        "dequantize_int4", weight=_matrix(weight), scale=scale, zeros=zeros, group_size=group_size
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
    _groups(weight, scale, group_size)
    return _linear(
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
    return _linear("linear", x, weight, bias)


def _linear(
    op: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    inputs: int | None = None,
    **more: object,
) -> Tensor:
    """Flatten x (..., K) to (M, K), run `op`, give the leading dimensions back."""
    outputs, k = weight.shape[0], weight.shape[1] if inputs is None else inputs
    if x.ndim == 0 or x.shape[-1] != k:
        raise ValueError(
            f"{op}: x {tuple(x.shape)} does not fit a weight of {k} inputs, {outputs} outputs"
        )
    shape = (*x.shape[:-1], outputs)
    if x.numel() == 0 or outputs == 0:
        empty = x.new_zeros(shape)
        return empty if bias is None else empty + bias.to(x.dtype)
    result: Tensor = registry.run(
        op, x=x.reshape(-1, k).contiguous(), weight=_matrix(weight), bias=bias, **more
    )
    return result.reshape(shape)


def _scale(scale: Tensor | None, rows: int, device: torch.device) -> Tensor:
    """A scale of 1 or N numbers in any shape and float dtype as float32 () or (N, 1)."""
    if scale is None:
        return torch.ones((), dtype=torch.float32, device=device)
    if scale.numel() == 1:
        return scale.to(torch.float32).reshape(())
    if scale.numel() == rows:
        return scale.to(torch.float32).reshape(rows, 1)
    raise ValueError(f"a scale of shape {tuple(scale.shape)} does not fit {rows} rows")


def _tiles(weight: Tensor, scale: Tensor) -> Tensor:
    expected = tuple(-(-size // 128) for size in weight.shape)
    if tuple(scale.shape) != expected:
        raise ValueError(
            f"scale {tuple(scale.shape)} does not fit weight {tuple(weight.shape)}: "
            f"128 x 128 tiles need {expected}"
        )
    return scale.to(torch.float32)


def _groups(weight: Tensor, scale: Tensor, group_size: int) -> None:
    rows, half = weight.shape
    expected = (half * 2 // group_size, rows)
    if half * 2 % group_size or tuple(scale.shape) != expected:
        raise ValueError(
            f"scale {tuple(scale.shape)} does not fit a packed weight {tuple(weight.shape)}: "
            f"groups of {group_size} need {expected}"
        )


def _matrix(weight: Tensor) -> Tensor:
    """A weight (N, K), K at least 1, contiguous: no-op for what comes from a file."""
    if weight.ndim != 2 or weight.shape[1] == 0:
        raise ValueError(f"a weight is (N, K) with at least one input, not {tuple(weight.shape)}")
    return weight.contiguous()


def _divides(weight: Tensor, group_size: int) -> None:
    if group_size < 1 or weight.shape[-1] % group_size:
        raise ValueError(f"groups of {group_size} do not divide {weight.shape[-1]} inputs")
