"""Arguments of an op in, checked and shaped as every backend takes them out."""

from __future__ import annotations

import torch

from . import registry

Tensor = torch.Tensor


def run_linear(
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
        op, x=x.reshape(-1, k).contiguous(), weight=matrix(weight), bias=bias, **more
    )
    return result.reshape(shape)


def run_packed(
    op: str, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """`run_linear` for a weight that `pack_int8` has put into an order of its own, seen as (K, N).

    `group_size` 0: x is not rotated.
    """
    k, outputs = weight.shape
    if x.ndim == 0 or x.shape[-1] != k:
        raise ValueError(
            f"{op}: x {tuple(x.shape)} does not fit a weight of {k} inputs, {outputs} outputs"
        )
    shape = (*x.shape[:-1], outputs)
    if x.numel() == 0:
        return x.new_zeros(shape)
    rows, scale = x.reshape(-1, k).contiguous(), row_scale(scale, outputs, x.device)
    result: Tensor = registry.run(
        op, x=rows, weight=weight, bias=bias, scale=scale, group_size=group_size
    )
    return result.reshape(shape)


def row_scale(scale: Tensor | None, rows: int, device: torch.device) -> Tensor:
    """A scale of 1 or N numbers in any shape and float dtype as float32 () or (N, 1)."""
    if scale is None:
        return torch.ones((), dtype=torch.float32, device=device)
    if scale.numel() == 1:
        return scale.to(torch.float32).reshape(())
    if scale.numel() == rows:
        return scale.to(torch.float32).reshape(rows, 1)
    raise ValueError(f"a scale of shape {tuple(scale.shape)} does not fit {rows} rows")


def matrix(weight: Tensor) -> Tensor:
    """A weight (N, K), K at least 1, contiguous: no-op for what comes from a file."""
    if weight.ndim != 2 or weight.shape[1] == 0:
        raise ValueError(f"a weight is (N, K) with at least one input, not {tuple(weight.shape)}")
    return weight.contiguous()


def check_divides(weight: Tensor, group_size: int) -> None:
    """Groups of this size divide the inputs."""
    if group_size < 1 or weight.shape[-1] % group_size:
        raise ValueError(f"groups of {group_size} do not divide {weight.shape[-1]} inputs")


def check_shape(what: str, found: Tensor, expected: tuple[int, ...]) -> Tensor:
    """The tensor, contiguous, where it has the expected shape."""
    if tuple(found.shape) != expected:
        raise ValueError(f"{what} {tuple(found.shape)} does not fit: it has to be {expected}")
    return found.contiguous()


def check_tiles(weight: Tensor, scale: Tensor) -> Tensor:
    """A scale for each 128 x 128 tile of the weight, as float32."""
    expected = tuple(-(-size // 128) for size in weight.shape)
    if tuple(scale.shape) != expected:
        raise ValueError(
            f"scale {tuple(scale.shape)} does not fit weight {tuple(weight.shape)}: "
            f"128 x 128 tiles need {expected}"
        )
    return scale.to(torch.float32)


def check_groups(weight: Tensor, scale: Tensor, group_size: int) -> None:
    """A scale for each group of each row of packed four-bit codes."""
    rows, half = weight.shape
    expected = (half * 2 // group_size, rows)
    if half * 2 % group_size or tuple(scale.shape) != expected:
        raise ValueError(
            f"scale {tuple(scale.shape)} does not fit a packed weight {tuple(weight.shape)}: "
            f"groups of {group_size} need {expected}"
        )
