"""A weight in, 4-bit codes, two to a byte, and one scale for each 128 inputs of a row out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import Refused
from ..scheme import Group, Piece, Scheme
from ._storage import check_shape, group_size, stored

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors

GROUP_SIZE = 128


def refuses(n: int, k: int) -> str | None:
    """Inputs that groups of 128 do not divide."""
    return f"{k} inputs are no multiple of {GROUP_SIZE}" if k % GROUP_SIZE else None


def config(n: int, k: int) -> Mapping[str, object]:
    """The group size, as the layer's JSON says it."""
    return {"group_size": GROUP_SIZE}


def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
    """{role: Piece}: codes I8 (n, k / 2); scale, zeros (k / 128, n) in the source's 16 bits."""
    half, groups = _half(dtype), (k // GROUP_SIZE, n)
    return {
        "weight": Piece(".weight", "I8", (n, k // 2)),
        "scale": Piece(".weight_scale", half, groups),
        "zeros": Piece(".weight_zeros", half, groups),
    }


def quantize(
    weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
) -> dict[str, torch.Tensor]:
    """s = 2 amax / 15 per group; (rows, k) -> codes (rows, k / 2), scale, zeros (k / 128, rows)."""
    import torch

    from ...kernels import ops
    from ..tensors import torch_dtype

    check_shape("int4_g128", refuses, weight)
    codes, scale = ops.quantize_int4(weight, GROUP_SIZE, torch_dtype(_half(dtype)))
    return {"weight": codes, "scale": scale, "zeros": torch.zeros_like(scale)}


def dequantize(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """(code - 8) * scale + zeros -> (rows, k) float32; any group size that divides k."""
    from ...kernels import ops

    scale, zeros, size = _groups(tensors, settings)
    return ops.dequantize_int4(tensors["weight"], scale, zeros, size)


def linear(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x as it is, times the dequantized weight."""
    from ...kernels import ops

    scale, zeros, size = _groups(tensors, settings)
    return ops.int4_linear(x, tensors["weight"], scale, zeros, size, bias)


def branched(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None,
    down: torch.Tensor,
    up: torch.Tensor,
) -> torch.Tensor:
    """`linear` with a low-rank branch."""
    from ...kernels import ops

    scale, zeros, size = _groups(tensors, settings)
    return ops.int4_low_rank_linear(x, tensors["weight"], scale, down, up, zeros, size, bias)


def _half(dtype: str) -> str:
    return "F16" if dtype == "F16" else "BF16"


def _groups(
    tensors: Tensors, settings: Mapping[str, object]
) -> tuple[torch.Tensor, torch.Tensor | None, int]:
    """The scale and the zeros (k / g, rows), checked, and g."""
    rows, k = tensors["weight"].shape[0], 2 * tensors["weight"].shape[1]
    size = group_size(settings, "group_size", GROUP_SIZE, k)
    scale, zeros = stored(tensors, "scale"), tensors.get("zeros")
    for tensor in (scale,) if zeros is None else (scale, zeros):
        if tuple(tensor.shape) != (k // size, rows):
            raise Refused(
                "scale-shape",
                found=f"a scale of shape {list(tensor.shape)} for {rows} rows of {k} inputs",
                expected=f"{[k // size, rows]}, one number for each {size} inputs of a row",
                fix="write the file again with the tool that made it",
            )
    return scale, zeros, size


SCHEME = Scheme(
    name="int4_g128",
    title="INT4, one scale per 128 inputs of a row",
    bits=4.25,
    granularity=Group(GROUP_SIZE),
    format_id="awq_w4a16",
    config=config,
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    branched=branched,
    worst_error=0.12,
    core_reads="0.38 and later, and our loader",
    row_axis={"weight": 0, "scale": 1, "zeros": 1},
    refuses=refuses,
    aliases={
        "int4-g128-marlin": "marlin",
        "4-bit": None,
        "4bit": None,
        "qint4": "quanto",
        "quanto-qint4": "quanto",
        "awq-w4a16": None,
    },
)
