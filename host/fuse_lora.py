"""A MODEL and LoRA files in, the model with them out: deferred, baked, or quantized again.

Deferred, a LoRA is a patch that Quantize Model consumes. On a model that we quantized it is fused
in the right order after all: the model is made again from its source.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.utils
import torch
from comfy_kitchen.tensor import QuantizedTensor

from .cached import quantize
from .live_lora import LiveRecipe
from .load import AS_STORED
from .lora import add_loras, add_report, note_use
from .lora_match import Lora, Matched, match_loras
from .model import (
    Patches,
    asked,
    keep_in_memory,
    owned_clone,
    quantizing_device,
    swap_layer,
)
from .ops import quantized_operations
from .pristine import Init, Recipe, Request, pristine, recipe_of
from .progress import host_progress
from .report import Report, shown
from .weights import patched, stored_scheme

UNQUANTIZED = ("none", AS_STORED)
TITLE = "Fuse LoRA"


def fuse_loras(patcher: Any, loras: Sequence[Lora], bake_now: bool = False) -> tuple[Any, Report]:
    """(new patcher, report). Nothing upstream is changed.

    A model that we quantized is made again: base LoRAs and the new ones, then quantized once.
    """
    report = Report(TITLE)
    matched = match_loras(patcher.model, loras)
    add_report(report, matched)
    with_patches = patcher.clone()
    add_loras(with_patches, matched)
    recipe = recipe_of(patcher)
    if recipe is not None and recipe.request.scheme not in UNQUANTIZED:
        also = ", the live LoRAs too" if isinstance(recipe, LiveRecipe) else ""
        report.notes.append(f"placed after quantizing: everything is fused first{also}")
        wanted = asked(with_patches, recipe.request, report)
        result = quantize(with_patches, wanted, report)
    elif bake_now:
        result = bake(with_patches, report)
    else:
        result = with_patches
        _tell_deferred(patcher.model, matched, report)
    note_use(result, matched, loras)
    return result, report


def bake(patcher: Any, report: Report) -> Any:
    """A clone that owns its module, every patch of `patcher` fused into it in float32.

    What is not patched stays mapped from the source file.
    """
    recipe = asked(patcher, Request("none"), report)
    own = pristine(recipe.init, recipe.compute_dtype)
    consumed = bake_patches(own, recipe.patches, recipe.compute_dtype, report)
    result = owned_clone(patcher, own, recipe, consumed, report, again=from_baked)
    keep_in_memory(result)
    return result


def rebake(recipe: Recipe, disable_dynamic: bool = False) -> Any:
    """The factory of a baked model, for the host's own fresh copies."""
    fresh = pristine(recipe.init, recipe.compute_dtype, disable_dynamic)
    bake_patches(fresh, recipe.patches, recipe.compute_dtype, Report("again"))
    fresh.cached_patcher_init = from_baked(recipe)
    keep_in_memory(fresh)
    return fresh


def from_baked(recipe: Recipe) -> Init:
    """The factory that bakes again."""
    return (rebake, (recipe,))


def bake_patches(
    own: Any, patches: Patches, compute_dtype: torch.dtype, report: Report
) -> set[str]:
    """Fuse patches into the parameters of a patcher that nobody else holds; the keys fused.

    A plain parameter keeps its dtype and is rounded once. A quantized one keeps its scheme and is
    rounded a second time.
    """
    started = time.perf_counter()
    model, device = own.model, quantizing_device(own.load_device)
    ops = quantized_operations(compute_dtype, own.load_device)
    progress, consumed = host_progress(), set()
    plain, again = 0, []
    for done, key in enumerate(patches):
        progress(done, len(patches))
        name, _, parameter = key.rpartition(".")
        module = comfy.utils.get_attr(model, name)
        value = getattr(module, parameter, None)
        if key in consumed:
            continue
        if value is None or value.is_meta:
            report.keep(key, "it is not loaded: its LoRA is left to ComfyUI")
        elif not isinstance(value, QuantizedTensor):
            fused = patched(value, patches[key], key, device)
            comfy.utils.set_attr_param(model, key, fused.to(value.device, value.dtype))
            consumed.add(key)
            plain += 1
        elif (scheme := stored_scheme(module)) is None:
            report.keep(name, "stored in a format that we do not write: its LoRA is left live")
        else:
            consumed |= swap_layer(model, name, module, scheme, patches, ops, device, report)
            again.append(name)
    progress(len(patches), len(patches))
    own.size = 0
    report.fused, report.bytes_before = 0, 0
    if plain:
        report.notes.append(f"baked into {plain} parameters in float32, rounded once")
    if again:
        report.warn(
            f"{len(again)} layers are stored quantized and were rounded twice ({shown(again)}): "
            "a 16-bit source gives a better model"
        )
    report.seconds = time.perf_counter() - started
    return consumed


def _tell_deferred(model: Any, matched: Matched, report: Report) -> None:
    """Say what happens to the patches, and where a quantized source costs a second rounding."""
    layers = dict.fromkeys(placed.key for placed in matched.placed)
    if not layers:
        return
    report.notes.append(
        f"deferred on {len(layers)} parameters: Quantize Model fuses them in float32 before it "
        "quantizes; without it ComfyUI adds them when it loads the model"
    )
    schemes = stored_schemes(model, [key.rpartition(".")[0] for key in layers])
    for scheme, names in schemes.items():
        report.warn(
            f"{len(names)} of the layers are stored as {scheme} ({shown(names)}): fusing into them "
            "rounds twice; use a 16-bit source, or Live LoRA, which leaves the stored codes alone"
        )


def stored_schemes(model: Any, names: Sequence[str]) -> Mapping[str, list[str]]:
    """{scheme: modules} of those that are quantized."""
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        module = comfy.utils.get_attr(model, name)
        if isinstance(getattr(module, "weight", None), QuantizedTensor):
            scheme = stored_scheme(module) or str(getattr(module, "quant_format", "quantized"))
            found.setdefault(scheme, []).append(name.removeprefix("diffusion_model."))
    return found
