"""A MODEL, a LoRA and a scheme in, the same wired in eight orders out, as a user may wire them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import cached, memory, model
from .fuse_lora import fuse_loras
from .live_lora import add_live_loras
from .lora import add_loras, note_use
from .lora_match import Lora, match_loras
from .pristine import Request


@dataclass(frozen=True)
class Wiring:
    """What every order starts from; `base` is the model quantized without the LoRA."""

    source: Any
    lora: Lora
    scheme: str
    base: Any = None


def patched(patcher: Any, lora: Lora) -> Any:
    """A stock LoRA on a model: patches that the host applies when it loads."""
    clone, matched = patcher.clone(), match_loras(patcher.model, [lora])
    add_loras(clone, matched)
    note_use(clone, matched, [lora])
    return clone


def low_vram(patcher: Any) -> Any:
    """No weight stays on the device."""
    return memory.manage(patcher, memory.asked(memory.LOW, None, None))[0]


def quantized(patcher: Any, scheme: str, cache: str = cached.OFF) -> Any:
    """Quantize Model, with what the model carries fused first."""
    run = model.quantize_model if cache == cached.OFF else cached.quantize_model
    return run(patcher, Request(scheme, cache=cache))[0]


STRATEGIES: dict[str, Callable[[Wiring], Any]] = {
    "lora_patch": lambda w: patched(w.source, w.lora),
    "quantize_then_lora": lambda w: patched(w.base, w.lora),
    "lora_then_quantize": lambda w: quantized(patched(w.source, w.lora), w.scheme),
    "fused": lambda w: fuse_loras(w.source, [w.lora], bake_now=True)[0],
    "fused_quantized": lambda w: quantized(fuse_loras(w.source, [w.lora])[0], w.scheme, cached.ON),
    "low_vram": lambda w: low_vram(patched(w.source, w.lora)),
    "low_vram_fused": lambda w: low_vram(fuse_loras(w.source, [w.lora], bake_now=True)[0]),
    "live_lora": lambda w: add_live_loras(w.base, [w.lora])[0],
}
# orders that start from the model quantized without the LoRA
ON_BASE = ("quantize_then_lora", "live_lora")
