"""The story on one page: open, recognise, match LoRAs, choose, then per layer fuse, quantize, save.

A plan is made from headers alone; nothing is written before the whole plan stands.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from .auto import auto_scheme
from .budget.learn import learn, learned_bytes
from .budget.readers import COMFYUI, readable
from .budget.spend import Measured, check, measure, spend
from .budget.ways import Wish
from .choose import choose
from .files.writer import Writer, size_of
from .fuse.lora import Fused, LoraFile, match
from .insight import Insight
from .layer import Layer
from .memory import predicted_peak_bytes
from .meter import Meter, Progress, silent
from .model import Model, recognise
from .outputs import Output, output_of, specs_of
from .place.budget import Placement, place
from .plan import Budget, Choice, Plan
from .read import read
from .recipe import METADATA_KEY, digest_of, recipe_of
from .repairable import mend_layer, plain_codes
from .rounding import NEAREST, Rounder, rounder
from .rows import all_schemes
from .source import Source
from .stream import Job, Stream
from .workers import single_threaded_torch, worker_count

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Request:
    """What the user asked for; `scheme` may be `auto`, `dtype` is for what stays unquantized.

    `max_bytes`: of the file. With it `auto` means any of `candidates` for each layer (None: those
    that ComfyUI's loader reads), and another scheme means that one or none. `rounding`: one of
    rounding.ROUNDINGS. By layer name, from a calibration: `inputs`, the mean square of each input
    channel, and `input_scales` for the schemes that take one.
    """

    scheme: str = "auto"
    keep: tuple[str, ...] = ()
    dtype: str | None = None
    device: str = "cpu"
    capability: tuple[int, int] | None = None
    max_bytes: int | None = None
    candidates: tuple[str, ...] | None = None
    rounding: str = NEAREST
    inputs: Mapping[str, torch.Tensor] | None = None
    input_scales: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """Everything that is known of a new file before the first weight is read."""

    source: Source
    request: Request
    model: Model
    outputs: tuple[Output, ...]
    metadata: Mapping[str, str]
    plan: Plan
    loras: tuple[LoraFile, ...] = ()
    fused: Fused = field(default_factory=Fused)
    measured: Measured | None = None
    insight: Insight | None = None  # what is known of the layers, where they were looked at

    def close(self) -> None:
        """Close the source and the LoRAs."""
        for lora in self.loras:
            lora.close()
        self.source.close()


@dataclass(frozen=True)
class Written:
    """What was written; `layers` counts them by scheme."""

    out: Path
    bytes: int
    seconds: float
    layers: Mapping[str, int]
    prepared: Prepared


def prepare(
    source: Source,
    loras: Sequence[LoraFile] = (),
    request: Request | None = None,
    progress: Progress = silent,
    measured: Measured | None = None,
) -> Prepared:
    """Headers in, the whole plan out. Refuses what cannot be done before anything is written.

    With a budget the weights are measured too; `progress` is told of that, and may end it.
    `measured`: of another plan for the same files that differs in `max_bytes` alone.
    """
    request = request or Request()
    model = recognise(read(source))
    fused = match(loras, model) if loras else Fused()
    preferred = auto_scheme(request.device, request.capability)[0]
    if request.scheme == "auto" and request.max_bytes is None:
        request = replace(request, scheme=preferred)
    candidates = _candidates(request)
    recipe = recipe_of(
        source,
        request.scheme,
        [(lora.source, lora.strength, lora.rslora) for lora in loras],
        request.keep,
        request.dtype,
    )
    recipe = replace(
        recipe, max_bytes=request.max_bytes, candidates=candidates, rounding=request.rounding,
        calibration=digest_of(request.inputs, request.input_scales),
    )  # fmt: skip
    metadata = {"format": "pt", METADATA_KEY: recipe.to_json()}
    budget = None
    if request.max_bytes is None:
        choices = choose(model, request.scheme, keep=request.keep, dtype=request.dtype)
    else:
        wish = Wish(
            request.max_bytes, candidates, preferred, request.keep, request.dtype,
            request.device, request.rounding, request.inputs,
        )  # fmt: skip

        def size(tried: Sequence[Choice]) -> int:
            outputs = outputs_of(model, tried, fused, request.input_scales)
            return size_of(specs_of(outputs), metadata)

        check(model, fused, wish, size)
        measured = measured or measure(source, model, fused, wish, progress)
        choices, budget = spend(measured, request.max_bytes, size)
    prepared = lay_out(source, model, choices, request, metadata, fused, budget)
    return replace(prepared, loras=tuple(loras), measured=measured)


def _candidates(request: Request) -> tuple[str, ...]:
    """What a layer may get within a budget; nothing where there is none."""
    if request.max_bytes is None:
        return ()
    if request.scheme != "auto":
        return (request.scheme,)
    return request.candidates or readable(COMFYUI)


def outputs_of(
    model: Model,
    choices: Sequence[Choice],
    fused: Fused,
    input_scales: Mapping[str, float] = MappingProxyType({}),
) -> tuple[Output, ...]:
    """The layers of the new file for these choices, and what else is in a full checkpoint."""
    prefix, scales = model.written_prefix, input_scales
    return (
        *(
            output_of(c, c.layer.key in fused.changes, prefix, scales.get(c.layer.name))
            for c in choices
        ),
        *(output_of(_beside(layer), touched=False) for layer in model.others),
    )


def lay_out(
    source: Source,
    model: Model,
    choices: Sequence[Choice],
    request: Request,
    metadata: Mapping[str, str],
    fused: Fused | None = None,
    budget: Budget | None = None,
) -> Prepared:
    """Choices in, the tensors of the new file and its exact size out.

    What else is in a full checkpoint (VAE, text encoder) keeps its numbers and its codes.
    """
    fused = fused or Fused()
    outputs = outputs_of(model, choices, fused, request.input_scales)
    specs = specs_of(outputs)
    workers = worker_count(request.device)
    converting = predicted_peak_bytes(outputs, fused, workers, request.rounding)
    plan = Plan(
        family=model.family.name,
        choices=tuple(output.choice for output in outputs),
        bytes=size_of(specs, metadata),
        peak_private_bytes=max(converting, budget.peak_bytes if budget else 0),
        vram_bytes=sum(spec.size_bytes for spec in specs),
        warnings=tuple(_warnings(outputs, fused, model)),
        budget=budget,
    )
    return Prepared(source, request, model, outputs, metadata, plan, fused=fused)


def _beside(layer: Layer) -> Choice:
    """A layer outside the model: as it is stored; what no format holds becomes floating point."""
    mended = mend_layer(plain_codes(layer)).choice
    return replace(mended, why="not part of the model")


def _warnings(outputs: Sequence[Output], fused: Fused, model: Model) -> list[str]:
    """What the user should know of the numbers before they are written."""
    changed = [o for o in outputs if o.choice.layer.scheme != "none" and not o.as_stored]
    twice = Counter(o.choice.layer.scheme for o in changed if o.choice.scheme != "none")
    found = [
        f"{count} layers are stored as {scheme}: they are dequantized"
        f"{', fused' if fused.changes else ''} and quantized again, which rounds them twice; "
        "a 16-bit source gives a better file"
        for scheme, count in twice.items()
    ]
    lost = [
        o
        for o in changed
        if any("input_scale" in part.tensors for part in o.choice.layer.parts)
        and "input_scale" not in o.tensors
    ]
    if lost:
        found.append(f"{len(lost)} layers lose their calibrated input_scale")
    if model.unused:
        named = ", ".join(layer.key for layer in model.unused[:3])
        found.append(f"{len(model.unused)} tensors have no place in this model: {named}")
    return found


def convert(prepared: Prepared, target: Path, progress: Progress = silent) -> Written:
    """Write the file that the plan describes; on any error nothing is left behind."""
    started = time.perf_counter()
    prepared, progress = _learned(prepared, progress)
    jobs = [_job(prepared, output) for output in prepared.outputs]
    total = sum(job.source_bytes for job in jobs)
    writer = Writer(target, specs_of(prepared.outputs), prepared.metadata, prepared.close)
    with writer, single_threaded_torch():
        Stream(writer, progress, total).run(jobs, worker_count(prepared.request.device))
        del jobs
    return Written(
        out=Path(target),
        bytes=writer.size_bytes,
        seconds=time.perf_counter() - started,
        layers=dict(Counter(output.choice.scheme for output in prepared.outputs)),
        prepared=prepared,
    )


def placement(prepared: Prepared, vram_bytes: int) -> Placement:
    """Which layers of the new file stay on a card of `vram_bytes`."""
    sizes = [
        (output.choice.layer.name, sum(spec.size_bytes for spec in output.tensors.values()))
        for output in prepared.outputs
    ]
    return place(sizes, vram_bytes)


def _learned(prepared: Prepared, progress: Progress) -> tuple[Prepared, Progress]:
    """With what rounding must know of the layers, and the progress of what is left to do."""
    request = prepared.request
    if prepared.measured is not None:
        return replace(prepared, insight=prepared.measured.insight), progress
    if request.rounding == NEAREST:
        return prepared, progress
    before = learned_bytes(prepared.model)
    source_bytes = sum(_job(prepared, output).source_bytes for output in prepared.outputs)
    meter = Meter(progress, before + source_bytes)
    insight = learn(
        prepared.source, prepared.model, prepared.fused, request.device, request.inputs, meter.add
    )
    return (
        replace(prepared, insight=insight),
        lambda done, total: progress(before + done, before + total),
    )


def _job(prepared: Prepared, output: Output) -> Job:
    layer, fused = output.choice.layer, prepared.fused
    fuse = partial(fused.reader, layer) if layer.key in fused.changes else None
    rounding = rounding_of(output.choice, prepared.insight, prepared.request)
    return Job(output, prepared.source, fuse, prepared.request.device, rounding)


def rounding_of(
    choice: Choice, insight: Insight | None, request: Request
) -> Callable[[], Rounder | None]:
    """What makes the rounder of a layer when a worker comes to it."""
    layer = choice.layer
    if request.rounding == NEAREST or not layer.is_matrix:
        return lambda: None
    known = insight.layers.get(layer.name) if insight else None
    return partial(
        rounder, all_schemes()[choice.scheme], layer.shape[1], request.rounding, choice.dtype,
        known, request.device,
    )  # fmt: skip
