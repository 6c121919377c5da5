"""A MODEL and what it is sampled for in, the MODEL with measured activation scales out.

ComfyUI multiplies fp8 layers with a fixed scale of their inputs, 1 where the file says none: what
exceeds 448 is cut off, what is tiny loses its precision. The scale comes from sampling itself.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.sample
import torch

from ..engine.errors import Refused
from .compiled import compile_again
from .load import AS_STORED
from .ops import compute_dtype_of
from .origin import PREFIX
from .paths import output_file
from .pristine import Init, Recipe, Request, build, recipe_of
from .progress import host_progress
from .recording import Recorder, recorded
from .report import Report, shown
from .tree import as_parameter, copied_tree
from .weights import stored_scheme

log = logging.getLogger(__name__)

TOP = 448.0  # the largest e4m3 number
SMALLEST_NORMAL = 2.0**-6  # below it e4m3 loses bits

Conditioning = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Sampling:
    """How the model is sampled for each prompt."""

    steps: int = 4
    seed: int = 0
    cfg: float = 1.0
    sampler: str = "euler"
    scheduler: str = "simple"


@dataclass(frozen=True)
class CalibratedRecipe(Recipe):
    """How a calibrated model was made: `base` makes the model without the scales.

    Its request carries what was measured, so that quantizing again keeps it.
    """

    base: Init | None = None


def calibrate(
    patcher: Any,
    positive: Conditioning,
    negative: Conditioning | None,
    latent: Mapping[str, Any],
    sampling: Sampling,
    margin: float = 1.1,
    percentile: float = 100.0,
) -> tuple[Any, Report]:
    """(new patcher, report): each conditioning of `positive` is a prompt of its own.

    scale = margin * largest input / 448, the largest being what `percentile` of the inputs do not
    exceed. The weights of `patcher` are shared, nothing upstream is changed.
    """
    started, report = time.perf_counter(), Report("Calibrate FP8")
    if not positive:
        raise Refused(
            "no-prompt",
            found="an empty conditioning",
            expected="at least one prompt",
            fix="connect CLIP Text Encode",
        )
    result = _owned(patcher)
    with recorded(result.model, PREFIX) as recorder:
        _sample(result, positive, negative, latent, sampling)
    recorder.check()
    scales = {
        name: max(margin * seen.largest(percentile) / TOP, 1e-12)
        for name, seen in recorder.found.items()
    }
    set_scales(result.model, scales)
    inputs = {name: seen.mean_square() for name, seen in recorder.found.items()}
    if patcher.cached_patcher_init is not None:
        result.cached_patcher_init = (recalibrated, (_recipe(patcher, inputs, scales),))
    _tell(report, result, recorder, scales, len(positive) * sampling.steps)
    report.seconds = time.perf_counter() - started
    log.info("%s", report.text().replace("\n", "; "))
    return result, report


def recalibrated(recipe: CalibratedRecipe, disable_dynamic: bool = False) -> Any:
    """The factory of a calibrated model, for the host's own fresh copies."""
    fresh = build(recipe.base or (), disable_dynamic)
    set_scales(fresh.model, recipe.request.input_scales)
    fresh.cached_patcher_init = (recalibrated, (recipe,))
    return fresh


def set_scales(model: torch.nn.Module, scales: Mapping[str, float]) -> None:
    """Give every fp8 layer its input scale, where the host and our own layouts look for it."""
    for name, module in _fp8_layers(model).items():
        if name not in scales:
            continue
        weight = module.weight
        value = torch.tensor(scales[name], dtype=torch.float32, device=weight._qdata.device)
        module.input_scale = torch.nn.Parameter(value, requires_grad=False)
        if hasattr(weight._params, "input_scale"):
            params = replace(weight._params, input_scale=value)
            made = type(weight)(weight._qdata, weight._layout_cls, params)
            module.weight = as_parameter(made)


def save_scales(scales: Mapping[str, float], prefix: str) -> Path:
    """Write the scales as JSON, as `fusequant convert --input-scales` reads them."""
    target = output_file(prefix, ".json")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.write_text(json.dumps(dict(sorted(scales.items())), indent=1) + "\n", encoding="utf-8")
    part.replace(target)
    return target


def _owned(patcher: Any) -> Any:
    """A clone over a tree of its own, whose layers may be watched and given scales."""
    model = copied_tree(patcher)
    empty = tuple(type(held)() for held in patcher.get_clone_model_override()[1])
    result = patcher.clone(model_override=(model, empty))
    result.size = 0
    result.parent = None  # the parent holds another module: it must never take this one's place
    result.hook_backup = {}
    result.clone_base_uuid, result.patches_uuid = uuid.uuid4(), uuid.uuid4()
    return compile_again(result)


def _sample(
    patcher: Any,
    positive: Conditioning,
    negative: Conditioning | None,
    latent: Mapping[str, Any],
    sampling: Sampling,
) -> None:
    """The model's own sampling, prompt by prompt; what it gives is of no use here."""
    start = comfy.sample.fix_empty_latent_channels(
        patcher, latent["samples"], latent.get("downscale_ratio_spacial"),
        latent.get("downscale_ratio_temporal"),
    )  # fmt: skip
    progress, total = host_progress(), len(positive) * sampling.steps
    progress(0, total)
    devices = [patcher.load_device] if patcher.load_device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        for number, prompt in enumerate(positive):
            seed = sampling.seed + number
            noise = comfy.sample.prepare_noise(start, seed, latent.get("batch_index"))
            done = number * sampling.steps
            comfy.sample.sample(
                patcher, noise, sampling.steps, sampling.cfg, sampling.sampler,
                sampling.scheduler, [prompt], negative or _nothing(prompt), start,
                noise_mask=latent.get("noise_mask"), disable_pbar=True, seed=seed,
                callback=lambda step, *_, done=done: progress(done + step + 1, total),
            )  # fmt: skip


def _nothing(prompt: Sequence[Any]) -> list[list[Any]]:
    """A negative conditioning of zeros, as for a prompt that was left out."""
    context, told = prompt
    pooled = told.get("pooled_output")
    empty = {} if pooled is None else {"pooled_output": torch.zeros_like(pooled)}
    return [[torch.zeros_like(context), {**told, **empty}]]


def _fp8_layers(model: torch.nn.Module) -> dict[str, Any]:
    """{layer: module} of those whose inputs get a fixed scale."""
    return {
        name.removeprefix(PREFIX): module
        for name, module in model.named_modules()
        if name.startswith(PREFIX) and stored_scheme(module) == "fp8"
    }


def _recipe(
    patcher: Any, inputs: Mapping[str, torch.Tensor], scales: Mapping[str, float]
) -> CalibratedRecipe:
    """The recipe of what is made from `patcher`, which may be calibrated already."""
    before, init = recipe_of(patcher), patcher.cached_patcher_init
    base = before.base if isinstance(before, CalibratedRecipe) else init
    known = before or Recipe(init, Request(AS_STORED), compute_dtype_of(patcher))
    request = replace(known.request, inputs=inputs, input_scales=scales)
    return CalibratedRecipe(
        known.init, request, known.compute_dtype, known.patches, known.assigned, known.insight,
        known.told, base,
    )  # fmt: skip


def _tell(
    report: Report, patcher: Any, recorder: Recorder, scales: Mapping[str, float], runs: int
) -> None:
    """How many layers, between which scales, and what scale 1 would have cost."""
    layers = [name for name in _fp8_layers(patcher.model) if name in scales]
    report.notes.append(f"{runs} steps sampled, {len(recorder.found)} layers watched")
    if not layers:
        report.notes.append(
            "no layer is fp8 here: Quantize Model after this node uses the numbers, for fp8 layers "
            "and for a byte budget"
        )
        return
    found = sorted(scales[name] for name in layers)
    report.notes.append(
        f"input_scale set on {len(layers)} fp8 layers, {found[0]:.3g} to {found[-1]:.3g}; with 1, "
        "as ComfyUI has it without,"
    )
    largest = {name: float(recorder.found[name].amax) for name in layers}
    cut = shown([name for name in layers if largest[name] > TOP]) or "none"
    tiny = shown([name for name in layers if _typical(recorder, name) < SMALLEST_NORMAL]) or "none"
    report.notes.append(f"  inputs above 448 would be cut off in: {cut}")
    report.notes.append(f"  inputs would be rounded with fewer bits in: {tiny}")


def _typical(recorder: Recorder, name: str) -> float:
    """The root mean square of a layer's inputs."""
    return float(recorder.found[name].mean_square().mean().sqrt())
