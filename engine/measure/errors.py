"""Two versions of a layer in, how far the second is from the first out; read in runs of rows.

With the reference `a` and the other version `b`, both seen as (rows, columns):

    relative_error = |b - a| / |a|                    Frobenius norms over the whole layer
    worst_row      = max over rows i of |b_i - a_i| / |a_i|
    cosine         = <a, b> / (|a| |b|)

Every sum is in float64. A vector or a scalar is one row. 0 against 0 counts as equal; anything else
against 0 is infinitely far, with cosine 0; a NaN on either side makes the numbers NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..errors import Refused

Rows = torch.Tensor | Callable[[int, int], torch.Tensor]  # (first, last) along dim 0 -> those rows

CHUNK_ELEMENTS = 1 << 18  # 2 MB of float64: one run of both sides stays in a core's cache


@dataclass(frozen=True)
class LayerError:
    """How far one layer is from its reference; all three are plain numbers without a unit."""

    name: str
    relative_error: float
    worst_row: float
    cosine: float

    def to_json(self) -> dict[str, str | float | None]:
        """The row that `compare --json` prints; JSON has no infinity or NaN, they become null."""
        row: dict[str, str | float | None] = {"name": self.name}
        for key in ("relative_error", "worst_row", "cosine"):
            value = getattr(self, key)
            row[key] = value if math.isfinite(value) else None
        return row


def layer_error(
    name: str,
    a: Rows,
    b: Rows,
    shape: Sequence[int] | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> LayerError:
    """The error of `b` against `a`; either is a tensor or a reader of rows, never held whole.

    `shape` is needed when both are readers. Works in runs of at most `chunk_elements` numbers of
    each side (at least one row).
    """
    shape = _common_shape(name, a, b, shape)
    one_row = len(shape) < 2
    count = shape[0] if shape else 1
    width = 1 if one_row else math.prod(shape[1:])
    step = max(1, chunk_elements // max(1, width))
    total = torch.zeros(4, dtype=torch.float64)
    worst = torch.zeros((), dtype=torch.float64)
    for first in range(0, count, step):
        last = min(first + step, count)
        sums = _row_sums(_run(a, first, last, one_row), _run(b, first, last, one_row))
        total += sums.sum(1)
        if not one_row:
            worst = torch.maximum(worst, _ratio(sums[1], sums[0]).max())
    error = _ratio(total[1], total[0])
    return LayerError(name, float(error), float(error if one_row else worst), _cosine(total))


def relative_error(a: Rows, b: Rows) -> float:
    """|b - a| / |a| over all numbers, Frobenius."""
    return layer_error("", a, b).relative_error


def worst_row(a: Rows, b: Rows) -> float:
    """The largest |b_i - a_i| / |a_i| of any row i."""
    return layer_error("", a, b).worst_row


def cosine(a: Rows, b: Rows) -> float:
    """<a, b> / (|a| |b|) over all numbers; 1 is the same direction."""
    return layer_error("", a, b).cosine


def _common_shape(name: str, a: Rows, b: Rows, shape: Sequence[int] | None) -> tuple[int, ...]:
    shapes = [tuple(side.shape) for side in (a, b) if isinstance(side, torch.Tensor)]
    shapes += [tuple(shape)] if shape is not None else []
    if not shapes:
        raise ValueError("two row readers need a shape")
    if any(other != shapes[0] for other in shapes):
        raise Refused(
            "shapes-differ",
            layer=name or None,
            found=f"shape {list(shapes[-1])}",
            expected=f"{list(shapes[0])}, as in the reference",
            fix="compare two versions of the same model.",
        )
    return shapes[0]


def _run(side: Rows, first: int, last: int, one_row: bool) -> torch.Tensor:
    """Rows first..last as (rows, columns) float64 in the memory of the CPU."""
    if isinstance(side, torch.Tensor):
        rows = side.detach().reshape(1) if side.ndim == 0 else side.detach()[first:last]
    else:
        rows = side(first, last)
    # Copied first, cast second: MPS has no float64, and fp8 has no direct cast to it everywhere.
    rows = rows.to("cpu")
    rows = rows if rows.dtype == torch.float64 else rows.to(torch.float32).to(torch.float64)
    return rows.reshape(1 if one_row else last - first, -1)


def _row_sums(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(4, rows): |a|^2, |b - a|^2, <a, b>, |b|^2 of each row."""
    delta = b - a
    pairs = ((a, a), (delta, delta), (a, b), (b, b))
    return torch.stack([torch.linalg.vecdot(x, y) for x, y in pairs])


def _ratio(delta: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """sqrt(delta / reference), with 0 / 0 = 0."""
    zero = (delta == 0) & (reference == 0)
    return torch.where(zero, torch.zeros_like(delta), (delta / reference).sqrt())


def _cosine(total: torch.Tensor) -> float:
    a, _, dot, b = total.tolist()
    if a == 0 or b == 0:
        return 1.0 if a == b else 0.0
    return float(dot / math.sqrt(a) / math.sqrt(b))
