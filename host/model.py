"""A MODEL or CLIP in, the same with its weights fused and quantized out; what came in is untouched.

The weights are read from a fresh copy of the source, LoRAs are added in float32, each layer is
quantized once and replaced by the host's own quantized Linear, loaded by the host's own loader.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_kitchen.tensor import QuantizedTensor

from ..engine.errors import Refused
from ..engine.plan import Choice
from . import budget, devices, making, order, streaming
from .allocator import give_back
from .backends import KITCHEN, forced_backend
from .choosing import Chosen, chosen_for, exact_scheme
from .compiled import compile_again
from .ops import compute_dtype_of, ignores_full_precision, quantized_operations
from .pristine import (
    AS_STORED,
    Init,
    Recipe,
    Request,
    calibrated,
    init_of,
    pristine,
    recipe_of,
)
from .progress import host_progress
from .report import Report
from .weights import fused_weight, is_linear, patched, stored_bytes, stored_scheme

log = logging.getLogger(__name__)

Patches = Mapping[str, list[Any]]
WEIGHT_ONLY_NOTE = "backend kitchen: this ComfyUI quantizes the activations of int8 all the same"


def quantize_model(patcher: Any, request: Request) -> tuple[Any, Report]:
    """(new patcher, report). Patches on quantized layers are fused into them, the others stay live.

    A model that is quantized already by us is made again from its source, with what was fused into
    it before and what was added since.
    """
    report = Report(f"Quantize Model: {request.scheme}")
    with making.measured(report, quantizing_device(patcher.load_device)):
        made = quantize_asked(patcher, asked(patcher, request, report), report)
    return making.noted(made, report), report


def asked(patcher: Any, request: Request, report: Report) -> Recipe:
    """What is to be made of `patcher`: its source, every patch and the request in exact terms."""
    before = recipe_of(patcher)
    patches = {key: list(found) for key, found in patcher.patches.items()}
    if before is None:
        init = init_of(patcher)
    else:
        init = before.init
        patches = merged(before.patches, patches)
        if before.request.scheme != AS_STORED:
            report.notes.append(f"rebuilt from the source: it was {before.request.scheme} before")
        request = calibrated(request, before.request)
    scheme, backend = exact_scheme(request.scheme, patcher.load_device)
    backend = forced_backend(request.backend, backend, report)
    backend = devices.running(scheme, patcher.load_device, backend, report)
    exact = replace(request, scheme=scheme, backend=backend)
    request = budget.asked_for(exact, request.scheme, scheme, patcher.load_device)
    if scheme == "int8_weight_only" and backend == KITCHEN and ignores_full_precision():
        report.notes.append(WEIGHT_ONLY_NOTE)
    return Recipe(init, request, compute_dtype_of(patcher), patches)


def quantize_asked(patcher: Any, recipe: Recipe, report: Report) -> Any:
    """The new patcher that `recipe` describes, quantized in memory.

    It is quantized while the host loads its file, where that is all there is to making it; else a
    fresh copy is made first.
    """
    recipe = budget.settled(recipe, patcher, quantizing_device(patcher.load_device), report)
    made = _streamed(patcher, recipe, report)
    if made is None:
        own = pristine(recipe.init, recipe.compute_dtype)
        consumed = swap_layers(own, recipe, report)
    else:
        own, consumed = made
    result = owned_clone(patcher, own, recipe, consumed, report)
    keep_in_memory(result)
    return result


def quantize_clip(clip: Any, request: Request) -> tuple[Any, Report]:
    """(new CLIP, report): the text encoders of a CLIP quantized, its tokenizer shared."""
    patcher, report = quantize_model(clip.patcher, request)
    result = clip.clone()
    result.patcher, result.cond_stage_model = patcher, patcher.model
    return result, report


def rebuild(recipe: Recipe, disable_dynamic: bool = False) -> Any:
    """The factory of a quantized model, for the host's own fresh copies (compile, several GPUs)."""
    fresh = pristine(recipe.init, recipe.compute_dtype, disable_dynamic)
    recipe = budget.settled(recipe, fresh, quantizing_device(fresh.load_device), Report("again"))
    swap_layers(fresh, recipe, Report("again"))
    fresh.cached_patcher_init = from_recipe(recipe)
    keep_in_memory(fresh)
    return fresh


def merged(first: Patches, then: Patches) -> dict[str, list[Any]]:
    """Patches by key, those of `first` before those of `then`."""
    return {key: [*first.get(key, ()), *then.get(key, ())] for key in {**first, **then}}


def from_recipe(recipe: Recipe) -> Init:
    """The factory that quantizes again in memory."""
    return (rebuild, (recipe,))


def owned_clone(
    patcher: Any, own: Any, recipe: Recipe, consumed: Collection[str], report: Report,
    again: Callable[[Recipe], Init] = from_recipe,
) -> Any:  # fmt: skip
    """A clone of `patcher` that holds the module of `own` and says how to make it again."""
    fused = {key: recipe.patches[key] for key in sorted(consumed)}
    result = patcher.clone(model_override=own.get_clone_model_override())
    result.size = 0
    result.parent = None  # the parent holds another module: it must never take this one's place
    result.cached_patcher_init = again(replace(recipe, patches=fused))
    result.clone_base_uuid, result.patches_uuid = uuid.uuid4(), uuid.uuid4()
    result.patches = {k: list(found) for k, found in recipe.patches.items() if k not in consumed}
    order.watched(compile_again(result))
    report.live = len(result.patches)
    log.info("%s", report.text().replace("\n", "; "))
    return result


def keep_in_memory(patcher: Any) -> None:
    """Newer hosts read weights again from a fast disk: ours exist in memory only."""
    if hasattr(patcher, "fast_disk"):
        patcher.fast_disk = False
        pins = getattr(patcher.model, "dynamic_pins", {}).get(patcher.load_device, {})
        if "fast_disk" in pins:
            pins["fast_disk"] = False


def swap_layers(own: Any, recipe: Recipe, report: Report) -> set[str]:
    """Quantize the chosen layers of a patcher that nobody else holds; the patch keys fused.

    The schemes and the backend of `recipe` are exact here, no `auto`.
    """
    started = time.perf_counter()
    model, patches, request = own.model, recipe.patches, recipe.request
    chosen = chosen_for(model, request.scheme, request.keep, recipe.assigned)
    report.family = ", ".join(chosen.families)
    wanted = _wanted(model, chosen, report)
    _leave_stored(wanted, patches, report)
    text = not hasattr(model, "diffusion_model")
    ops = quantized_operations(
        recipe.compute_dtype, own.load_device, request.backend, full_precision=text
    )
    device = quantizing_device(own.load_device)
    report.predicted = _predicted(wanted, patches, device)
    _make_room(wanted, device)
    progress, consumed = host_progress(), set()
    report.baseline = _baseline(module for module, _ in wanted.values())
    for done, (name, (module, choice)) in enumerate(wanted.items()):
        progress(done, len(wanted))
        try:
            made = swap_layer(
                model, name, module, choice.scheme, patches, ops, device, report, recipe
            )
            consumed |= made
        except Refused as refused:
            if request.on_failure == "refuse":
                raise
            report.keep(name, f"{refused.kind}: {refused}")
            report.warn(f"{name} stays in full precision: {refused}")
        del module
        wanted[name] = (None, choice)  # the old weight is free now
        give_back()
    progress(len(wanted), len(wanted))
    own.size = 0
    report.seconds = time.perf_counter() - started
    return consumed


def _streamed(patcher: Any, recipe: Recipe, report: Report) -> tuple[Any, set[str]] | None:
    """(fresh patcher quantized while it was loaded, patch keys fused), or None: not possible."""
    if not streaming.streams(recipe):
        return None
    started, request = time.perf_counter(), recipe.request
    chosen = chosen_for(patcher.model, request.scheme, request.keep, recipe.assigned)
    wanted = _wanted(patcher.model, chosen, report)
    device = quantizing_device(patcher.load_device)
    made = None
    if wanted:
        report.predicted = _predicted(wanted, recipe.patches, device)
        _make_room(wanted, device)
        schemes = {name: choice.scheme for name, (_, choice) in wanted.items()}
        made = streaming.quantize_while_loading(patcher, recipe, schemes, device, report)
    if made is None:
        report.kept.clear()
        return None
    report.family = ", ".join(chosen.families)
    report.seconds = time.perf_counter() - started
    return made


def _wanted(model: Any, chosen: Chosen, report: Report) -> dict[str, tuple[Any, Choice]]:
    """The host's Linears to be quantized, by name; reasons for the others in the report."""
    found = {}
    modules = dict(model.named_modules())
    for name, choice in chosen.choices.items():
        module = modules.get(name)
        if module is None or not is_linear(module):
            continue
        if choice.scheme == "none":
            report.keep(name, choice.why)
        elif module.weight is None or module.weight.is_meta:
            report.keep(name, "its weight is not loaded")
        else:
            found[name] = (module, choice)
    return found


def _predicted(
    wanted: Mapping[str, tuple[Any, Choice]], patches: Patches, device: torch.device
) -> dict[str, int]:
    return making.predicted({name: x for name, (_, x) in wanted.items()}, patches, device)


def _leave_stored(wanted: dict[str, tuple[Any, Choice]], patches: Patches, report: Report) -> None:
    """Take out the layers whose source holds the codes already."""
    for name, (module, choice) in list(wanted.items()):
        if stored_scheme(module) == choice.scheme and f"{name}.weight" not in patches:
            report.keep(name, f"stored as {choice.scheme} already, its codes are not touched")
            del wanted[name]


def quantizing_device(load_device: torch.device) -> torch.device:
    """Where the arithmetic is done; MPS has no fp8 and no fp64 tensors."""
    return load_device if load_device.type in ("cuda", "xpu", "cpu") else torch.device("cpu")


def _make_room(wanted: Mapping[str, tuple[Any, Choice]], device: torch.device) -> None:
    """Ask the host for room for the largest layer in float32 and its copies."""
    if device.type != "cpu" and wanted:
        largest = max(module.weight.numel() for module, _ in wanted.values())
        comfy.model_management.free_memory(4 * 4 * largest, device)


def _baseline(modules: Iterable[Any]) -> str:
    counts: Counter[str] = Counter()
    for module in modules:
        weight = module.weight
        name = "quantized" if isinstance(weight, QuantizedTensor) else str(weight.dtype)
        counts[name.removeprefix("torch.")] += weight.numel()
    return counts.most_common(1)[0][0] if counts else "bfloat16"


def swap_layer(
    model: Any, name: str, module: Any, scheme: str, patches: Patches,
    ops: Any, device: torch.device, report: Report, recipe: Recipe | None = None,
) -> set[str]:  # fmt: skip
    """Put the quantized layer in the place of `module`; the patch keys that were fused into it.

    `recipe`: how it is to be rounded, and its calibration.
    """
    keys = {key for key in (f"{name}.weight", f"{name}.bias") if key in patches}
    weight = fused_weight(module, patches.get(f"{name}.weight"), f"{name}.weight", device)
    tensors = budget.tensors_of(recipe, name, scheme, weight, device)
    tensors = {key: tensor.to(module.weight.device) for key, tensor in tensors.items()}
    dtype = ops._compute_dtype
    if module.bias is not None:
        bias = patched(module.bias, patches.get(f"{name}.bias"), f"{name}.bias", device)
        tensors["bias"] = bias.to(module.bias.device, dtype)
    report.bytes_before += stored_bytes(module)
    report.bytes_after += sum(tensor.nbytes for tensor in tensors.values())
    linear = ops.Linear(
        module.in_features, module.out_features, bias=module.bias is not None, dtype=dtype
    )
    # the host notes dtypes when it makes a model, before any weight is there: a bias has one
    comfy.model_management.archive_model_dtypes(linear)
    left = linear.load_state_dict(tensors, strict=False, assign=True)
    if left.missing_keys or left.unexpected_keys:
        raise Refused(
            "host-layer",
            found=f"keys that ComfyUI's Linear did not take: {left}",
            expected="a ComfyUI version that reads its own format",
            fix="update ComfyUI, or report this with its version",
            layer=name,
        )
    comfy.utils.set_attr(model, name, linear)
    report.schemes[scheme] += 1
    report.fused += bool(keys)
    return keys
