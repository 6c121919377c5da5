"""Sizes of layers and a budget in, which of them stay on the device and which are streamed out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# What a sampler needs beside the weights: ComfyUI keeps about 0.8 GiB for inference and 0.4 to 0.6
# GiB in reserve; the rest is activations of a 1 megapixel picture.
RESERVE_BYTES = int(1.75 * 2**30)


@dataclass(frozen=True)
class Placement:
    """Names of the layers by where they live; streamed ones cross the bus once every step."""

    resident: tuple[str, ...]
    streamed: tuple[str, ...]
    resident_bytes: int
    streamed_bytes: int
    reserve_bytes: int

    @property
    def fits(self) -> bool:
        """Everything stays on the device."""
        return not self.streamed


def place(layers: Sequence[tuple[str, int]], vram_bytes: int) -> Placement:
    """Keep layers in model order while they fit in `vram_bytes` less the reserve.

    Where something must be streamed, two buffers of the largest layer are set aside: one is
    computed from while the other is filled.
    """
    total = sum(size for _, size in layers)
    room = vram_bytes - RESERVE_BYTES
    if total > room:
        room -= 2 * max((size for _, size in layers), default=0)
    resident: list[str] = []
    streamed: list[str] = []
    used = 0
    for name, size in layers:
        if used + size <= room:
            resident.append(name)
            used += size
        else:
            streamed.append(name)
    return Placement(tuple(resident), tuple(streamed), used, total - used, RESERVE_BYTES)
