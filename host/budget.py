"""A recipe with a byte budget or a better rounding in, the same with what it must know out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..engine.budget.learn import learn, learned_bytes
from ..engine.budget.readers import FUSEQUANT, readable
from ..engine.budget.spend import within
from ..engine.budget.ways import FITS, Wish
from ..engine.devices import NATIVE, rule
from ..engine.errors import Refused
from ..engine.files.writer import size_of
from ..engine.insight import NOTHING
from ..engine.meter import Meter, Progress
from ..engine.model_outputs import outputs_of
from ..engine.outputs import specs_of
from ..engine.plan import Budget, Choice
from ..engine.rounding import rounder
from ..engine.rounding_names import NEAREST
from ..engine.rows import all_schemes
from .devices import class_of
from .origin import PREFIX, origin_of
from .pristine import Recipe, Request
from .progress import host_progress
from .quantize import layer_tensors
from .report import Report, size

# these have no integer matmul where the rule is not native: the host's kernel would raise there
_INT8 = ("int8", "int8_convrot")


def candidates(asked: str, exact: str, device: torch.device) -> tuple[str, ...]:
    """The schemes that a budget may mix: the one that was asked for, or for `auto` all that run."""
    if asked != "auto":
        return (exact,)
    found = readable(FUSEQUANT, class_of(device))
    slow = [s for s in found if s in _INT8 and rule(s, class_of(device)).support != NATIVE]
    return tuple(scheme for scheme in found if scheme not in slow)


def settled(recipe: Recipe, patcher: Any, device: torch.device, report: Report) -> Recipe:
    """The recipe of `patcher` with the scheme of each layer, where it has a budget, and with what
    rounding must know of the layers. What is there already is kept.
    """
    request = recipe.request
    if not hasattr(patcher.model, "diffusion_model"):
        if request.max_bytes is not None:
            raise Refused(
                "budget-for-text-encoder",
                found="max_gb for a CLIP",
                expected="a MODEL",
                fix="set max_gb to 0 and pick 8-bit or 4-bit for the text encoder",
            )
        return recipe
    if request.max_bytes is not None and recipe.assigned is None:
        made = _within(recipe, request.max_bytes, device)
    elif request.rounding != NEAREST and recipe.insight is None:
        made = _looked_at(recipe, device)
    else:
        return recipe
    report.notes += made.told
    return made


def _looked_at(recipe: Recipe, device: torch.device) -> Recipe:
    """With what the model's own transformer shows, for the rounding."""
    with origin_of(recipe, device) as origin:
        meter = Meter(_bar(), max(1, learned_bytes(origin.model)))
        insight = learn(
            origin.source, origin.model, origin.fused, str(device), recipe.request.inputs, meter.add
        )
    line = f"rounding {recipe.request.rounding}: by {insight.how}"
    return replace(recipe, insight=insight, told=(line,))


def _within(recipe: Recipe, max_bytes: int, device: torch.device) -> Recipe:
    """With the scheme of each layer that a budget buys. Refuses one that is too small."""
    request = recipe.request
    with origin_of(recipe, device) as origin:
        wish = Wish(
            max_bytes, request.candidates, request.scheme, request.keep, None, str(device),
            request.rounding, request.inputs,
        )  # fmt: skip

        def file_size(tried: Sequence[Choice]) -> int:
            outputs = outputs_of(origin.model, tried, origin.fused, request.input_scales)
            return size_of(specs_of(outputs), {})

        choices, budget, measured = within(
            origin.source, origin.model, origin.fused, wish, file_size, _bar()
        )
    varied = measured.varied if measured else ()
    assigned = {
        c.layer.name: (c.scheme, FITS if c.scheme == "none" and c.layer.name in varied else c.why)
        for c in choices
        if c.layer.is_matrix
    }
    insight = measured.insight if measured else NOTHING
    lines = (*told(budget), *budget.warnings)
    return replace(recipe, assigned=assigned, insight=insight, told=lines)


def _bar() -> Progress:
    """The running node's bar, made here and not in a thread: it belongs to the node."""
    progress = host_progress()
    progress(0, 1)
    return progress


def told(budget: Budget) -> list[str]:
    """What a budget buys, for a report."""
    lines = [f"within {size(budget.max_bytes)}; known of the layers: {budget.how}"]
    if budget.error is not None:
        plain = [one for one in budget.uniform if one.bytes <= budget.max_bytes]
        best = min(plain, key=lambda one: one.error or 0.0, default=None)
        line = f"predicted error of the output: {budget.error:.4f}"
        if best is not None and best.error is not None:
            line += f"; {best.scheme} for all layers: {best.error:.4f} in {size(best.bytes)}"
        lines.append(line)
    lines += [
        f"{lora.file}: cosine {lora.cosine:.3f}, size {lora.norm_ratio:.2f} of the delta is left"
        for lora in budget.loras
    ]
    return lines


def tensors_of(
    recipe: Recipe | None, name: str, scheme: str, weight: torch.Tensor, device: torch.device
) -> dict[str, torch.Tensor]:
    """What a layer of the host's name is stored as, rounded and calibrated as the recipe says."""
    if recipe is None:
        return layer_tensors(name, scheme, weight, device)
    layer, request = name.removeprefix(PREFIX), recipe.request
    known = recipe.insight.layers.get(layer) if recipe.insight else None
    dtype = "F16" if weight.dtype == torch.float16 else "BF16"
    better = rounder(all_schemes()[scheme], weight.shape[1], request.rounding, dtype, known, device)
    return layer_tensors(name, scheme, weight, device, better, request.input_scales.get(layer))


def asked_for(request: Request, scheme: str, exact: str, device: Any) -> Request:
    """The request with the schemes that its budget may mix."""
    if request.max_bytes is None:
        return request
    return replace(request, candidates=candidates(scheme, exact, device))
