"""A device in; what it holds, whether a limit can act there, and the means to set one out.

Two ways of the host are served. With its older patcher a reserve decides how many weights are put
on the device; with dynamic VRAM each model has a bar of pages, and a watermark above which no page
is made resident. Every call of the second is looked for before it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ..engine.measure.counters import RESERVED, AllocatorPeak
from ..engine.measure.timing import PrivatePeak
from .weights import stored_bytes

# what a CUDA process holds beside torch's allocator: driver, kernels, cuBLAS workspaces
CONTEXT_BYTES = 512 * 2**20
COUNTED = ("cuda", "xpu")  # devices whose allocator counts, and where a limit acts


@dataclass(frozen=True)
class Vram:
    """Bytes of a device: in all, free for anybody, held by this process."""

    total: int
    free: int
    ours: int

    @property
    def foreign(self) -> int:
        """Held by other programs, as far as it can be told."""
        return max(0, self.total - self.free - self.ours - CONTEXT_BYTES)


def facts(device: torch.device) -> Vram:
    """What a CUDA or XPU device holds now."""
    total = int(comfy.model_management.get_total_memory(device))
    ours = reserved_bytes(device) + sum(resident_bytes(p) for p in loaded(device) if bar_of(p))
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else total - ours
    return Vram(total, int(free), ours)


def counters(device: torch.device) -> dict[str, int]:
    """What torch's allocator counts on a device. Asks the allocator alone."""
    found: dict[str, int] = getattr(torch, device.type).memory_stats(device)
    return found


def reserved_bytes(device: torch.device) -> int:
    """What torch's allocator holds on a device, used or cached."""
    return counters(device).get(f"{RESERVED}.current", 0)


def watched(device: torch.device) -> PrivatePeak | AllocatorPeak:
    """What watches the peak of a device: its allocator's counters, else private memory."""
    return AllocatorPeak(partial(counters, device)) if device.type in COUNTED else PrivatePeak()


def why_not(patcher: Any) -> str | None:
    """Why a limit cannot act on this MODEL here, or None."""
    management, device = comfy.model_management, patcher.load_device
    if device.type == "cpu":
        return "the model is computed on the CPU: its weights are in RAM and stay there"
    if device.type == "mps":
        return "this device shares its memory with the CPU: ComfyUI offloads nothing here"
    if device.type not in COUNTED:
        return f"nothing tells how much memory {device.type} holds"
    if bar_of(patcher) is not None or patcher.is_dynamic():
        return None
    state = management.vram_state.name
    if state not in ("NORMAL_VRAM", "LOW_VRAM"):
        return f"ComfyUI was started so that it decides by itself ({state})"
    return None


def loaded(device: torch.device) -> list[Any]:
    """The MODELs that the host keeps on a device."""
    kept = comfy.model_management.current_loaded_models
    found = [entry.model for entry in kept if entry.device == device]
    return [patcher for patcher in found if patcher is not None]


def other_bytes(patcher: Any) -> int:
    """Weights of other models on the device of this one."""
    there = [found for found in loaded(patcher.load_device) if not found.is_clone(patcher)]
    return sum(resident_bytes(found) for found in there)


def staging_bytes(patcher: Any) -> int:
    """The buffers that streamed layers arrive in: one for each of the host's streams."""
    device = patcher.load_device
    parents = {name.rpartition(".")[0] for name, x in patcher.model.named_parameters()
               if x.device != device}  # fmt: skip
    sizes = (stored_bytes(comfy.utils.get_attr(patcher.model, name)) for name in parents if name)
    streams = max(1, comfy.model_management.NUM_STREAMS)
    return sum(sorted(sizes, reverse=True)[:streams])


def resident_bytes(patcher: Any) -> int:
    """Weights of a MODEL that are on its device now."""
    return int(patcher.loaded_size())


def bar_of(patcher: Any) -> Any | None:
    """The pages of a MODEL under dynamic VRAM; None without it, or before it was loaded."""
    get = getattr(patcher, "_vbar_get", None)
    return get() if get is not None and patcher.is_dynamic() else None


def cap_pages(patcher: Any, size_bytes: int) -> bool:
    """Let at most `size_bytes` of a dynamic MODEL be resident; False where that cannot be set."""
    bar = bar_of(patcher)
    if not hasattr(bar, "set_watermark"):
        return False
    bar.set_watermark(max(0, size_bytes))
    return True


def uncap_pages(patcher: Any) -> None:
    """All pages of a dynamic MODEL may be resident again, as after each load by the host."""
    bar = bar_of(patcher)
    if hasattr(bar, "set_watermark") and hasattr(bar, "max_size"):
        bar.set_watermark(bar.max_size)


def hold_pages(patcher: Any, size_bytes: int) -> bool:
    """Keep the first `size_bytes` of a dynamic MODEL from being evicted; 0 lets them go again."""
    bar = bar_of(patcher)
    if not hasattr(bar, "set_watermark_limit"):
        return False
    bar.set_watermark_limit(size_bytes)
    return True


@contextmanager
def reserve(size_bytes: int | None) -> Iterator[None]:
    """Have the host leave at least `size_bytes` of a device free inside the block."""
    management = comfy.model_management
    before = management.EXTRA_RESERVED_VRAM
    if size_bytes is not None:
        management.EXTRA_RESERVED_VRAM = max(before, size_bytes)
    try:
        yield
    finally:
        management.EXTRA_RESERVED_VRAM = before


def evict_others(patcher: Any, excess_bytes: int) -> None:
    """Ask the host to take `excess_bytes` of other models off the device of a MODEL."""
    management, device = comfy.model_management, patcher.load_device
    if excess_bytes <= 0:
        return
    kept = [entry for entry in management.current_loaded_models if entry.model is patcher]
    wanted = management.get_free_memory(device) + excess_bytes
    management.free_memory(wanted, device, keep_loaded=kept)
