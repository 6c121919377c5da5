"""Layers that are quantized one after the other in memory in, the memory that it takes out.

peak = max over the layers of
    results so far + work on one layer + its codes twice, while its chunks are put together
work = max(sum of a layer with a LoRA in float32, with both halves' product and its scaled copy;
           that sum + one chunk of rows in float32 and its copies)

Full-precision weights are not counted: they are read through the map of their file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FLOAT = 4  # bytes of a number that is worked on
COPIES_OF_A_CHUNK = 4  # rows, their magnitude or rotation, the quotient, its rounding
COPIES_OF_A_FUSED_LAYER = 3  # the sum, the product of a LoRA's halves, the same times strength
KEPT_BYTES = 16 << 20  # what the C library's allocator and torch's libraries keep, measured


@dataclass(frozen=True)
class Made:
    """A layer of `elements` numbers that becomes `stored_bytes`.

    `fused`: a LoRA is added first. `decoded`: its source holds codes, which become float32 first.
    """

    elements: int
    stored_bytes: int
    fused: bool = False
    decoded: bool = False


def making_bytes(layers: Iterable[Made], chunk_elements: int) -> int:
    """The peak over what was held before where results and work are in one memory."""
    done = peak = 0
    for layer in layers:
        decoded = FLOAT * layer.elements if layer.decoded else 0
        chunks = _chunk_bytes(layer, chunk_elements) + 2 * layer.stored_bytes
        peak = max(peak, done + decoded + max(_fused_bytes(layer), chunks))
        done += layer.stored_bytes
    return peak + KEPT_BYTES


def made_elsewhere(layers: Iterable[Made], chunk_elements: int) -> tuple[int, int]:
    """(results in main memory, work on a GPU) where every chunk is worked on there."""
    found = list(layers)
    work = (max(_fused_bytes(x), _chunk_bytes(x, chunk_elements) + x.stored_bytes) for x in found)
    results = (Made(0, x.stored_bytes) for x in found)
    return making_bytes(results, chunk_elements), max(work, default=0)


def _fused_bytes(layer: Made) -> int:
    return FLOAT * layer.elements * COPIES_OF_A_FUSED_LAYER if layer.fused else 0


def _chunk_bytes(layer: Made, chunk_elements: int) -> int:
    """One chunk, beside the sum that it is taken from; the product of a LoRA's halves is gone."""
    summed = FLOAT * layer.elements if layer.fused else 0
    return summed + FLOAT * min(layer.elements, chunk_elements) * COPIES_OF_A_CHUNK
