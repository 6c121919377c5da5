"""A scheme: how numbers become fewer bits and back. One file in `schemes/` each: SCHEME."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

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


class Quantize(Protocol):
    """quantize(weight, amax, dtype) -> {role: tensor}."""

    def __call__(
        self, weight: torch.Tensor, amax: torch.Tensor | None = None, dtype: str = "BF16"
    ) -> dict[str, torch.Tensor]:
        """See Scheme."""
        ...


def no_config(n: int, k: int) -> Mapping[str, object]:
    """Nothing to say beside the format id."""
    return {}


@dataclass(frozen=True)
class Scheme:
    """Everything the pipeline, the nodes and the tests need to know of a scheme.

    Loading a scheme imports no torch.

    config(n, k) -> what the layer's JSON says beside `format` for a weight (n, k).
    pieces(n, k, dtype) -> {role: Piece}: what is stored for a weight (n, k) that came as `dtype`.
    refuses(n, k) -> reason or None: shapes that this scheme does not take. Ask before the others.
    quantize(weight, amax, dtype) -> {role: tensor}: `weight` (rows, k) is a run of rows of the
        weight, a multiple of `row_step` unless it is the last, in float32, bfloat16 or float16 (the
        arithmetic is float32 in any case); `amax` is the largest magnitude of the *whole* weight, a
        float32 scalar tensor, when the granularity is Tensor (None: take it from `weight`); `dtype`
        is what the source stores, as in `pieces`. The caller stacks what comes back along
        `row_axis[role]`; a role that is not in `row_axis` is whole. A scale that is not finite
        means that the rows are not: the caller refuses.
    dequantize(tensors, settings) -> (rows, k) float32: from the pieces of a run of rows, any scale
        shape that the readers of this storage accept; `settings` is the layer's JSON.
    linear(x, tensors, settings, bias) -> y: what the layer computes, on the backend in force.
    rotated(k) -> the size of the groups that the inputs are rotated in before they are rounded, by
        `ops.rotate_groups`, or None: not at all. Scales are chosen for the rotated numbers.
    turned(tensors, settings) -> what `dequantize` gives before it rotates back, where `rotated`.
    `static_inputs`: `linear` takes an `input_scale` of the file for its activations.
    `worst_error` bounds |dequantize(quantize(w)) - w| / |w| (Frobenius) for w from N(0, 1).
    `aliases` maps what other tools call it to the backend that the name means, or None.
    """

    name: str
    title: str
    bits: float
    granularity: Granularity
    format_id: str | None
    pieces: Callable[[int, int, str], dict[str, Piece]]
    quantize: Quantize
    dequantize: Callable[[Tensors, Mapping[str, object]], torch.Tensor]
    linear: Callable[
        [torch.Tensor, Tensors, Mapping[str, object], torch.Tensor | None], torch.Tensor
    ]
    worst_error: float
    config: Callable[[int, int], Mapping[str, object]] = no_config
    core_reads: str = "yes"  # "yes", "no: our loader", "0.38 and later, and our loader"
    row_axis: Mapping[str, int] = field(default_factory=lambda: {"weight": 0, "scale": 0})
    row_step: int = 1
    refuses: Callable[[int, int], str | None] = lambda n, k: None
    static_inputs: bool = False
    rotated: Callable[[int], int | None] = lambda k: None
    turned: Callable[[Tensors, Mapping[str, object]], torch.Tensor] | None = None
    aliases: Mapping[str, str | None] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
