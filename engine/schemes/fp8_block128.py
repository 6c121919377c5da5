"""A weight in, e4m3 codes and one scale for each 128 x 128 tile out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import Refused
from ..scheme import Block, Piece, Scheme
from ._storage import stored, weight_and_scale

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors


def config(n: int, k: int) -> Mapping[str, object]:
    """The tile size, as the layer's JSON says it."""
    return {"group_size": 128}


def pieces(n: int, k: int, dtype: str) -> dict[str, Piece]:
    """{role: Piece}: codes F8_E4M3 (n, k), float32 scale (ceil(n / 128), ceil(k / 128))."""
    return weight_and_scale("F8_E4M3", n, k, _tiles(n, k))


def quantize(
    weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
) -> dict[str, torch.Tensor]:
    """scale = max(tile amax, 1e-4) / 448; weight (rows, k) -> codes (rows, k), scale per tile."""
    from ...kernels import ops

    codes, scale = ops.quantize_fp8_block128(weight)
    return {"weight": codes, "scale": scale}


def dequantize(tensors: Tensors, settings: Mapping[str, object]) -> torch.Tensor:
    """codes * scale of their tile -> (rows, k) float32."""
    from ...kernels import ops

    return ops.dequantize_fp8_block128(tensors["weight"], _tile_scale(tensors))


def linear(
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """x e4m3 with one scale per token and 128 inputs."""
    from ...kernels import ops

    return ops.fp8_block128_linear(x, tensors["weight"], _tile_scale(tensors), bias)


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

    return ops.fp8_block128_low_rank_linear(
        x, tensors["weight"], _tile_scale(tensors), down, up, bias
    )


def _tiles(n: int, k: int) -> tuple[int, int]:
    return -(-n // 128), -(-k // 128)


def _tile_scale(tensors: Tensors) -> torch.Tensor:
    scale, (n, k) = stored(tensors, "scale"), tensors["weight"].shape
    if tuple(scale.shape) != _tiles(n, k):
        raise Refused(
            "scale-shape",
            found=f"a scale of shape {list(scale.shape)} for a weight of {[n, k]}",
            expected=f"{list(_tiles(n, k))}, one number for each 128 x 128 tile",
            fix="write the file again with the tool that made it",
        )
    return scale


SCHEME = Scheme(
    name="fp8_block128",
    title="FP8 e4m3, one scale per 128 x 128 tile",
    bits=8,
    granularity=Block(128),
    format_id="float8_e4m3fn_blockwise",
    config=config,
    pieces=pieces,
    quantize=quantize,
    dequantize=dequantize,
    linear=linear,
    branched=branched,
    worst_error=0.03,
    core_reads="no: our loader",
    row_step=128,
    rows_per={"scale": 128},
    aliases={"fp8-b128-deepgemm": "deepgemm"},
)
