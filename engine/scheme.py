"""A scheme: how numbers become fewer bits and back. One file in `schemes/` each: SCHEME."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    Read = Callable[[int, int], torch.Tensor]
    Tensors = Mapping[str, torch.Tensor]
    Bias = torch.Tensor | None
    Linear = Callable[[torch.Tensor, Tensors, Mapping[str, object], Bias], torch.Tensor]
    Branched = Callable[
        [torch.Tensor, Tensors, Mapping[str, object], Bias, torch.Tensor, torch.Tensor],
        torch.Tensor,
    ]


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
    """quantize(weight, whole, dtype) -> {role: tensor}."""

    def __call__(
        self, weight: torch.Tensor, whole: torch.Tensor | None = None, dtype: str = "BF16"
    ) -> dict[str, torch.Tensor]:
        """See Scheme."""
        ...


@dataclass(frozen=True)
class Survey:
    """What a scheme has to know of a whole weight before its first rows are quantized.

    run(read, n, k, spans) -> one tensor: read(start, stop) gives (stop - start, k) in the dtype of
        the source or float32, and is asked for the runs of rows that will be quantized, `spans`.
    held(n, k) -> how many numbers it keeps meanwhile, beside those of one run.
    """

    run: Callable[[Read, int, int, Sequence[tuple[int, int]]], torch.Tensor]
    held: Callable[[int, int], int] = lambda n, k: 0


def scales_are_finite(pieces: Tensors) -> bool:
    """No floating-point piece beside the codes holds NaN or infinity."""
    beside = (piece for role, piece in pieces.items() if role != "weight")
    return all(bool(piece.isfinite().all()) for piece in beside if piece.is_floating_point())


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
    survey: what `quantize` has to know of the whole weight, None for nothing.
    quantize(weight, whole, dtype) -> {role: tensor}: `weight` (rows, k) is a run of rows of the
        weight, a multiple of `row_step` unless it is the last, in float32, bfloat16 or float16 (the
        arithmetic is float32 in any case); `whole` is what the survey found (None: take it from
        `weight`); `dtype` is what the source stores, as in `pieces`. The caller stacks what comes
        back along `row_axis[role]`; a role that is not in `row_axis` is whole.
    finite(pieces) -> whether the rows that these came from had no NaN and no infinity: if not, the
        caller refuses them.
    rows_per[role]: the rows that one index along `row_axis` stands for, 1 where it is not told;
        row_tile[role]: that axis can be cut at multiples of this alone, and is filled up to one.
    optional: roles that a weight stored by another tool may lack.
    stored_pieces(n, k, dtype, settings) -> `pieces` of a weight stored with these settings, where
        they change a shape; None: they never do.
    dequantize(tensors, settings) -> (rows, k) float32: from the pieces of a run of rows, any scale
        shape that the readers of this storage accept; `settings` is the layer's JSON.
    linear(x, tensors, settings, bias) -> y: what the layer computes, on the backend in force.
    branched(x, tensors, settings, bias, down, up) -> linear plus (x down.T) up.T, where a card has
        one kernel for both.
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
    linear: Linear
    worst_error: float
    branched: Branched | None = None
    config: Callable[[int, int], Mapping[str, object]] = no_config
    core_reads: str = "yes"  # "yes", "no: our loader", "0.38 and later, and our loader"
    row_axis: Mapping[str, int] = field(default_factory=lambda: {"weight": 0, "scale": 0})
    row_step: int = 1
    rows_per: Mapping[str, int] = field(default_factory=dict)
    row_tile: Mapping[str, int] = field(default_factory=dict)
    survey: Survey | None = None
    finite: Callable[[Tensors], bool] = scales_are_finite
    optional: frozenset[str] = frozenset()
    stored_pieces: Callable[[int, int, str, Mapping[str, object]], dict[str, Piece]] | None = None
    refuses: Callable[[int, int], str | None] = lambda n, k: None
    static_inputs: bool = False
    rotated: Callable[[int], int | None] = lambda k: None
    turned: Callable[[Tensors, Mapping[str, object]], torch.Tensor] | None = None
    aliases: Mapping[str, str | None] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
