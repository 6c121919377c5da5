"""A LoRA's change of a layer in, how much of it a quantized weight still has out, run by run.

With `without` (the weight with every other LoRA), `fused` (with this one too) and `stored` (what
the quantized file holds):

    wanted = fused - without            real = stored - without
    kept       = <wanted, real> / |wanted|^2    1: all of it is there; 0: rounded away
    norm_ratio = |real| / |wanted|              above 1 by the noise of rounding
    cosine     = <wanted, real> / (|wanted| |real|)

The noise of rounding stands at a right angle to a LoRA, near enough: it lowers the cosine and
raises the ratio, but hardly moves `kept`. Sums are float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .errors import CHUNK_ELEMENTS, Rows

LOST = 0.5  # of `kept`: below it a LoRA does less than half of what it should


@dataclass(frozen=True)
class Sums:
    """|wanted|^2, |real|^2 and <wanted, real> of some rows; they add up over rows and layers."""

    wanted: float = 0.0
    real: float = 0.0
    both: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.wanted + other.wanted, self.real + other.real, self.both + other.both)

    @property
    def kept(self) -> float:
        """<wanted, real> / |wanted|^2; 1 where nothing was wanted."""
        return self.both / self.wanted if self.wanted else 1.0

    @property
    def norm_ratio(self) -> float:
        """|real| / |wanted|; 1 where nothing was wanted."""
        return math.sqrt(self.real / self.wanted) if self.wanted else 1.0

    @property
    def cosine(self) -> float:
        """The angle between what was wanted and what is there."""
        scale = math.sqrt(self.wanted) * math.sqrt(self.real)
        return self.both / scale if scale else float(self.wanted == self.real)


@dataclass(frozen=True)
class LayerDelta:
    """What is left of one LoRA on one layer."""

    name: str
    sums: Sums


@dataclass(frozen=True)
class LoraLeft:
    """What is left of one LoRA over all its layers, the most damaged first."""

    lora: str
    layers: tuple[LayerDelta, ...]

    @property
    def sums(self) -> Sums:
        """All layers together."""
        return sum((layer.sums for layer in self.layers), Sums())

    def to_json(self) -> dict[str, object]:
        """Its entry in the answer of `compare`."""
        total, worst = self.sums, self.layers[0] if self.layers else None
        return {
            "lora": self.lora,
            "layers": len(self.layers),
            "kept": finite(total.kept),
            "norm_ratio": finite(total.norm_ratio),
            "cosine": finite(total.cosine),
            "worst_layer": worst.name if worst else None,
            "worst_kept": finite(worst.sums.kept) if worst else None,
        }


def finite(value: float) -> float | None:
    """A number as JSON has it: no infinity and no NaN."""
    return value if math.isfinite(value) else None


def lora_left(lora: str, layers: Iterable[LayerDelta]) -> LoraLeft:
    """The layers of a LoRA in order of what is left; a NaN counts as nothing left."""
    order = sorted(layers, key=lambda one: (not math.isnan(one.sums.kept), one.sums.kept))
    return LoraLeft(lora, tuple(order))


def delta_left(
    without: Rows, fused: Rows, stored: Rows, shape: tuple[int, ...],
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Sums:  # fmt: skip
    """The sums of a layer of `shape`; a side is a tensor or a reader of rows, never held whole."""
    count = shape[0] if shape else 1
    width = math.prod(shape[1:]) if len(shape) > 1 else 1
    step = max(1, chunk_elements // max(1, width))
    total = Sums()
    for first in range(0, count, step):
        last = min(first + step, count)
        base, goal, there = (_rows(side, first, last) for side in (without, fused, stored))
        wanted, real = goal - base, there - base
        pairs = ((wanted, wanted), (real, real), (wanted, real))
        total += Sums(*(float(torch.dot(x, y)) for x, y in pairs))
    return total


def _rows(side: Rows, first: int, last: int) -> torch.Tensor:
    """Rows first..last as one float64 vector on the CPU."""
    rows = side.detach()[first:last] if isinstance(side, torch.Tensor) else side(first, last)
    return rows.to("cpu").to(torch.float32).to(torch.float64).reshape(-1)
