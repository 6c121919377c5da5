"""A scheme: how numbers become fewer bits and back. One file in `schemes/` each: SCHEME."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Tensor:
    """One scale for the whole weight."""


@dataclass(frozen=True)
class Row:
    """One scale for each output row."""


@dataclass(frozen=True)
class Group:
    """One scale for each run of `size` inputs in a row."""

    size: int


@dataclass(frozen=True)
class Block:
    """One scale for each `size` x `size` tile."""

    size: int


Granularity = Tensor | Row | Group | Block


@dataclass(frozen=True)
class Piece:
    """One tensor that a scheme stores for a weight: key suffix, dtype and shape."""

    suffix: str  # ".weight", ".weight_scale"
    dtype: str  # safetensors name
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Scheme:
    """Everything the pipeline, the nodes and the tests need to know of a scheme.

    config(n, k) -> what the `comfy_quant` JSON says beside the format, for a weight (n, k).
    pieces(n, k, dtype) -> {role: Piece}: what is stored for a weight (n, k) that came as `dtype`.
    refuses(n, k) -> reason or None: shapes that this scheme does not take.
    quantize(weight, amax) -> {role: tensor}: `weight` (rows, k) float32 is a run of rows, a multiple
        of `row_step` unless it is the last; `amax` is the largest magnitude of the *whole* weight,
        a float32 scalar tensor, when the granularity is Tensor (None: take it from `weight`).
        The caller stacks what comes back along `row_axis[role]`; a role not listed there is whole.
    dequantize(tensors, settings) -> (rows, k) float32: from the pieces of a run of rows, with any
        scale shape that the readers of this storage accept.
    linear(x, tensors, settings, bias) -> y: the reference meaning of the layer at run time.
    """

    name: str
    title: str
    bits: float
    granularity: Granularity
    format_id: str | None
    config: Callable[[int, int], Mapping[str, object]]
    pieces: Callable[[int, int, str], dict[str, Piece]]
    quantize: Callable[[torch.Tensor, torch.Tensor | None], dict[str, torch.Tensor]]
    dequantize: Callable[[Tensors, Mapping[str, object]], torch.Tensor]
    linear: Callable[
        [torch.Tensor, Tensors, Mapping[str, object], torch.Tensor | None], torch.Tensor
    ]
    worst_error: float
    core_reads: str = "yes"  # "yes", "no: our loader", "0.38 and later, and our loader"
    row_axis: Mapping[str, int] = field(default_factory=lambda: {"weight": 0, "scale": 0})
    row_step: int = 1
    refuses: Callable[[int, int], str | None] = lambda n, k: None
    aliases: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
