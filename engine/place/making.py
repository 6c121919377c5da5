"""Layers that are quantized one after the other in memory in, the private memory of that out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

COPIES_OF_A_CHUNK = 4  # float32 rows, their magnitude or rotation, the quotient, its rounding
COPIES_OF_A_FUSED_LAYER = 3  # float32 sum, the product of a LoRA's halves, the same times strength
KEPT_BYTES = 48 << 20  # what the allocator and torch's libraries keep, measured


@dataclass(frozen=True)
class Made:
    """A layer of `elements` numbers that becomes `stored_bytes`; `fused`: a LoRA is added first."""

    elements: int
    stored_bytes: int
    fused: bool = False


def making_bytes(layers: Iterable[Made], chunk_elements: int) -> int:
    """The peak over what was held before: results so far and the work on one layer.

    A layer's codes exist twice while its chunks are put together. Full-precision weights are not
    counted: they are read through the map of their file.
    """
    done = peak = 0
    for layer in layers:
        chunk = 4 * min(layer.elements, chunk_elements) * COPIES_OF_A_CHUNK
        whole = 4 * layer.elements * COPIES_OF_A_FUSED_LAYER if layer.fused else 0
        # the product of a LoRA's halves is gone when its layer is quantized, the sum is not
        rest = 4 * layer.elements if layer.fused else 0
        peak = max(peak, done + whole, done + rest + chunk + 2 * layer.stored_bytes)
        done += layer.stored_bytes
    return peak + KEPT_BYTES
