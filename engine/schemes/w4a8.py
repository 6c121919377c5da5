"""A weight in, 4-bit codes of its rotated inputs, 16 levels and scales of groups and rows out.

level[code] * scale, rounded to int8, times the row's number: activations stay in 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..scheme import Group, Piece, Scheme, Survey
from ._storage import check_shape, full_precision, group_size, stored
from .int8_convrot import rotation

if TYPE_CHECKING:
    import torch

    from ..scheme import Read, Tensors

GROUP_SIZE = 16
ROWS = 64  # the last rows of a product may be summed in another order: runs are whole ones
SAMPLE = 1 << 22  # numbers of the evenly spaced rows that decide the levels


def refuses(n: int, k: int) -> str | None:
    """Inputs that no rotation group divides."""
    return None if rotation(k) else f"{k} inputs are no multiple of 16, the smallest rotation group"


def config(n: int, k: int) -> Mapping[str, object]:
    """Groups and rotation, as the layer's JSON says them."""
    return {"group_size": GROUP_SIZE, "convrot_groupsize": rotation(k)}


def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
    """{role: Piece}: codes I8 (n, k / 2), e4m3 as bytes (n, k / 16), float32 (n), 16 levels."""
    return {
        "weight": Piece(".weight", "I8", (n, k // 2)),
        "scale": Piece(".weight_s_rel", "U8", (n, k // GROUP_SIZE)),
        "channel": Piece(".weight_s_channel", "F32", (n,)),
        "codebook": Piece(".weight_codebook", "F32", (16,)),
    }


def stored_pieces(n: int, k: int, dtype: str, settings: Mapping[str, object]) -> dict[str, Piece]:
    """`pieces` with a scale for each group of the size that the JSON names."""
    size = group_size(settings, "group_size", GROUP_SIZE, k)
    scale = Piece(".weight_s_rel", "U8", (n, k // size))
    return {**pieces(n, k, dtype), "scale": scale}


def sampled(n: int, k: int) -> int:
    """How many rows decide the levels: all, or as many as hold SAMPLE numbers."""
    return min(n, max(1, SAMPLE // max(k, 1)))


def codebook(read: Read, n: int, k: int, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """The 16 levels of a weight, from evenly spaced rows of it."""
    import torch

    from ...kernels import ops

    count, taken = sampled(n, k), 0
    wanted = torch.arange(n) if count == n else torch.linspace(0, n - 1, count).long()
    sample: torch.Tensor | None = None
    for start, stop in spans:
        rows = read(start, stop)
        at = wanted[(wanted >= start) & (wanted < stop)] - start
        if sample is None:
            sample = rows.new_empty((count, k))
        sample[taken : taken + len(at)] = rows[at.to(rows.device)]
        taken += len(at)
    if sample is None:
        sample = torch.zeros((1, k))
    return ops.w4a8_codebook(sample, GROUP_SIZE, rotation(k) or 0)


def quantize(
    weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
) -> dict[str, torch.Tensor]:
    """Levels fitted per group of 16 of the rotated weight; `whole` are the levels."""
    import torch

    from ...kernels import ops

    check_shape("w4a8", refuses, weight)
    n, k = weight.shape
    levels = whole
    if levels is None:
        levels = codebook(lambda start, stop: weight[start:stop], n, k, [(0, n)] if n else [])
    levels = levels.to(weight.device)
    codes, scale, channel = ops.quantize_w4a8(weight, levels, GROUP_SIZE, rotation(k) or 0)
    return {
        "weight": codes,
        "scale": scale.view(torch.uint8),
        "channel": channel,
        "codebook": levels,
    }


def dequantize(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """int8(level[code] * scale) * channel, rotated back -> (rows, k) float32."""
    from ...kernels import ops

    return ops.dequantize_w4a8(*_stored(tensors, settings))


def linear(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x rotated, then int8 with one scale per token; as it is if the file says so."""
    from ...kernels import ops

    if full_precision(settings):
        return ops.linear(x, dequantize(tensors, settings), bias)
    return ops.w4a8_linear(x, *_stored(tensors, settings), bias)


def _stored(
    tensors: Tensors, settings: Mapping[str, object]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, int]:
    """Codes, group scales, row numbers, levels and the rotation, as the ops take them."""
    weight = tensors["weight"]
    size = group_size(settings, "convrot_groupsize", 256, 2 * weight.shape[1], power_of_four=True)
    scale, channel = stored(tensors, "scale"), stored(tensors, "channel")
    return weight, scale, channel, tensors.get("codebook"), size


SCHEME = Scheme(
    name="w4a8",
    title="INT4 levels after a Hadamard rotation, activations in 8 bits",
    bits=4.5,
    granularity=Group(GROUP_SIZE),
    format_id="asym_w4a8_int8",
    config=config,
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    worst_error=0.08,
    row_axis={"weight": 0, "scale": 0, "channel": 0},
    row_step=ROWS,
    survey=Survey(codebook, lambda n, k: sampled(n, k) * k),
    optional=frozenset(("codebook",)),
    stored_pieces=stored_pieces,
    refuses=refuses,
    aliases={"asym-w4a8-int8": None, "w4a8-int8": None},
)
