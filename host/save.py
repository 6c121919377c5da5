"""A MODEL in, a checkpoint of it out: quantized layers as codes, every LoRA fused before them.

A LoRA that sits on a quantized layer is never added to its codes: the model is made again from its
source, fused first and quantized once, and that is what is written.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ..engine.errors import Refused
from ..engine.files.open import open_source
from ..engine.files.writer import Writer
from ..engine.recipe import METADATA_KEY, VERSION, carried
from ..engine.rows import all_schemes
from ..engine.stream import memory_view
from ..engine.tensors import TensorSpec, dtype_name
from .cached import OFF, described, file_of
from .fingerprint import Unnamed, key_of
from .live_lora import live_patches
from .load import AS_STORED
from .model import quantize_model, quantizing_device
from .ops import ignores_full_precision
from .paths import output_file
from .pristine import Recipe, Request, recipe_of
from .progress import host_progress, tell
from .report import Report, size
from .weights import is_linear, patched, stored_scheme

log = logging.getLogger(__name__)

PREFIX = "diffusion_model."


def save_model(patcher: Any, prefix: str) -> tuple[Path, Report]:
    """(file, report). The file is `prefix` and a number in the output folder, whole or not there.

    Names are those that ComfyUI's own saving gives, so that its loaders know the model.
    """
    started = time.perf_counter()
    report = Report("Save Quantized Model")
    target = output_file(prefix)
    ready = _fused(patcher, report)
    tensors = _tensors(ready)
    specs = [TensorSpec(name, dtype_name(t.dtype), tuple(t.shape)) for name, t in tensors.items()]
    metadata = _header(ready)
    progress = host_progress()
    with Writer(target, specs, metadata) as writer:
        tell(f"will write {writer.size_bytes / 1e9:.2f} GB to {target.name}")
        for done, (name, tensor) in enumerate(tensors.items()):
            progress(done, len(tensors))
            stored = tensor.detach().cpu().contiguous()
            writer.write(name, memory_view(stored))
    progress(len(tensors), len(tensors))
    _tell(ready, target, report)
    report.seconds = time.perf_counter() - started
    log.info("%s", report.text().replace("\n", "; "))
    return target, report


def _fused(patcher: Any, report: Report) -> Any:
    """`patcher`, or one made again with the LoRAs fused that lie on its quantized layers."""
    modules = dict(patcher.model.named_modules())
    schemes = {name: stored_scheme(m) for name, m in modules.items() if is_linear(m)}
    quantized = {name: scheme for name, scheme in schemes.items() if scheme is not None}
    late = {key for name in quantized for key in (f"{name}.weight", f"{name}.bias")}
    if not live_patches(patcher) and not late & set(patcher.patches):
        return patcher
    recipe = recipe_of(patcher)
    if recipe is not None and recipe.request.scheme != AS_STORED:
        request = replace(recipe.request, cache=OFF)
    else:
        request = _as_stored(schemes)
    made, again = quantize_model(patcher, request)
    report.notes.append(
        f"LoRA on {again.fused} quantized layers: fused into the source, then quantized again"
    )
    report.warnings += again.warnings
    return made


def _as_stored(schemes: Mapping[str, str | None]) -> Request:
    """The request that quantizes what is quantized in the source, and nothing else."""
    found = {scheme for scheme in schemes.values() if scheme is not None}
    if len(found) > 1:
        raise Refused(
            "lora-on-mixed-schemes",
            found=f"a LoRA on layers stored as {', '.join(sorted(found))}",
            expected="layers of one scheme, to quantize them again with the LoRA",
            fix="put Quantize Model between the LoRA and this node",
        )
    stay = [name.removeprefix(PREFIX) for name, scheme in schemes.items() if scheme is None]
    return Request(found.pop(), keep=tuple(stay), on_failure="refuse", cache=OFF)


def _tensors(patcher: Any) -> dict[str, torch.Tensor]:
    """{name in the file: tensor}; LoRAs on unquantized parameters are added in float32."""
    if patcher.backup:  # another clone's LoRA is in the shared weights just now
        comfy.model_management.unload_model_and_clones(patcher)
    device = quantizing_device(patcher.load_device)
    state = dict(patcher.model.diffusion_model.state_dict())
    for name, value in state.items():
        patches = patcher.patches.get(PREFIX + name)
        if patches:
            fused = patched(value, patches, PREFIX + name, device)
            state[name] = fused.to(value.device, value.dtype)
    named: Mapping[str, torch.Tensor] = patcher.model.state_dict_for_saving(state)
    return {name: _readable(tensor) for name, tensor in named.items()}


def _readable(tensor: torch.Tensor) -> torch.Tensor:
    """Exponent scales as bytes: a reader of the host's does not know their dtype."""
    exponents = getattr(torch, "float8_e8m0fnu", None)
    return tensor.view(torch.uint8) if tensor.dtype == exponents else tensor


def _header(patcher: Any) -> dict[str, str]:
    """What the model was made from, as far as it is known, and what its own file was built by."""
    recipe = recipe_of(patcher)
    if recipe is None:
        init = patcher.cached_patcher_init
        recipe = Recipe(init, Request("as loaded"), torch.float32, patcher.patches)
    path = file_of(recipe.init) if recipe.init else None
    kept: dict[str, str] = {}
    facts: dict[str, object] = {"version": VERSION, "scheme": recipe.request.scheme}
    try:
        if path is not None:
            with closing(open_source(path)) as source:
                kept = carried(source.metadata)
            facts = described(recipe, key_of(path, recipe.request, recipe.patches))
    except (Unnamed, Refused, OSError) as fault:
        log.info("the source of the saved model is not described: %s", fault)
    return {"format": "pt", **kept, METADATA_KEY: json.dumps(facts)}


def _tell(patcher: Any, target: Path, report: Report) -> None:
    """Where the file is, what is in it and who opens it."""
    counted = Counter(stored_scheme(module) for module in patcher.model.modules())
    del counted[None]
    report.notes.append(f"{target}: {size(target.stat().st_size)}")
    held = ", ".join(f"{count} x {scheme}" for scheme, count in sorted(counted.items()))
    report.notes.append(f"layers: {held or 'none is quantized'}")
    if "int8_weight_only" in counted and ignores_full_precision():
        report.warn(
            "stock loaders of this ComfyUI quantize activations too where int8_weight_only does "
            "not: Load FP8 DiT opens this file as it is meant"
        )
    others = {str(s): all_schemes()[str(s)].core_reads for s in counted}
    others = {scheme: who for scheme, who in others.items() if who != "yes"}
    if others:
        for scheme, who in sorted(others.items()):
            report.warn(f"stock loaders read {scheme}: {who} (Load FP8 DiT opens this file)")
    else:
        report.notes.append("opens in Load Diffusion Model, after the page is refreshed")
