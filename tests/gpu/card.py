"""A card of a given size out of a larger one, and the memory that a run takes of it.

ComfyUI asks the driver how much is free, and its dynamic loader does not allocate through torch:
a fraction of torch's allocator is seen by neither. So a smaller card is made by filling the rest of
this one with a tensor. The fraction serves where a limit is to be kept on a card that has more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import comfy.model_management
import torch

from fusequant.engine.measure.timing import PrivatePeak
from fusequant.host import vram

GB = 10**9
SLACK = 0.93  # a card sold as 24 GB reports a little less
LEAST_FREE_BYTES = 3 * GB


class Skipped(Exception):  # noqa: N818 - it is an answer, not an error
    """A case that cannot be asked here, with the reason."""


def cuda_device() -> torch.device | None:
    """The CUDA device that ComfyUI computes on, or None."""
    device = comfy.model_management.get_torch_device()
    return device if device.type == "cuda" else None


class _Baseline:
    """What was free of the card when no model was on it: peaks are counted from there."""

    free_bytes = reserved_bytes = 0


def mark() -> None:
    """Count peaks from what the card holds now."""
    device = cuda_device()
    if device is not None:
        _Baseline.free_bytes = torch.cuda.mem_get_info(device)[0]
        _Baseline.reserved_bytes = vram.reserved_bytes(device)


def empty() -> None:
    """Every model off the card, and what torch keeps given back."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    if cuda_device():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    mark()


@contextmanager
def of_size(cap_gb: float | None) -> Iterator[None]:
    """A card that holds `cap_gb` for this process inside the block; a CPU has none to make."""
    device = cuda_device()
    if device is None or cap_gb is None:
        yield
        return
    empty()
    free, total = torch.cuda.mem_get_info(device)
    _refuse_small(total, cap_gb)
    cap = min(int(cap_gb * GB), total)
    if free - (total - cap) < min(LEAST_FREE_BYTES, cap // 2):
        raise Skipped(f"other programs hold {(total - free) / GB:.1f} GB of this card")
    filling = torch.empty(max(0, total - cap), dtype=torch.uint8, device=device)
    mark()
    try:
        yield
    finally:
        del filling
        empty()


@contextmanager
def torch_within(cap_gb: float | None) -> Iterator[None]:
    """Torch's allocator takes at most `cap_gb` inside the block; the rest stays free."""
    device = cuda_device()
    if device is None or cap_gb is None:
        yield
        return
    empty()
    total = torch.cuda.mem_get_info(device)[1]
    _refuse_small(total, cap_gb)
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap_gb * GB / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        empty()


def _refuse_small(total: int, cap_gb: float) -> None:
    if total < SLACK * cap_gb * GB:
        raise Skipped(f"this card has {total / GB:.1f} GB")


class DevicePeak:
    """Context manager: the most that this process took of the card, or of RAM where there is none.

    Counted from the last `empty` or `of_size`; in RAM from where it was entered. What CUDA itself
    holds for the process is not in it. While the model runs only torch's own counters are watched:
    a call into the driver could disturb a CUDA graph that is being captured. The pages of dynamic
    models, which torch does not count, are added as they are at the end.
    """

    def __init__(self) -> None:
        self._device = cuda_device()
        meter = partial(vram.reserved_bytes, self._device) if self._device else None
        self._watched = PrivatePeak(meter=meter)
        self.peak_bytes: int | None = None

    def __enter__(self) -> DevicePeak:
        self._watched.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._watched.__exit__(None, None, None)
        if self._device is None:
            self.peak_bytes = self._watched.over_baseline_bytes
            return
        pages = [found for found in vram.loaded(self._device) if found.is_dynamic()]
        resident = sum(vram.resident_bytes(found) for found in pages)
        reserved = (self._watched.peak_bytes or 0) - _Baseline.reserved_bytes
        taken = _Baseline.free_bytes - int(torch.cuda.mem_get_info(self._device)[0])
        self.peak_bytes = max(0, taken, reserved + resident)
