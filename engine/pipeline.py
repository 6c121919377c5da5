"""The story on one page: open, recognise, match LoRAs, choose, then per layer fuse, quantize, save.

A plan is made from headers alone; nothing is written before the whole plan stands.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import lightx2v
from .auto import auto_scheme
from .budget.learn import learn, learned_bytes
from .budget.readers import COMFYUI, readable
from .budget.spend import Measured, within
from .budget.ways import Wish
from .choose import choose, dtype_of
from .errors import Refused
from .files.folder_writer import FolderWriter, folder_size
from .files.writer import Writer, size_of
from .fuse.lora import Fused, LoraFile, match
from .insight import Insight
from .layer import Layer
from .memory import predicted_peak_bytes
from .meter import Meter, Progress, silent
from .model import Model, recognise
from .model_outputs import outputs_of
from .outputs import Output, specs_of
from .place.budget import Placement, place
from .plan import Choice, Plan
from .read import read
from .recipe import digest_of, header, recipe_of
from .rounding import Rounder, rounder
from .rounding_names import NEAREST, known_rounding
from .rows import RowReader, all_schemes, rows_of
from .source import Source
from .stream import Job, Stream
from .tensors import TensorSpec
from .warned import warnings_of, warnings_of_format
from .workers import single_threaded_torch, worker_count

if TYPE_CHECKING:
    import torch

CORE = "core"
FORMATS = (CORE, lightx2v.FORMAT)


@dataclass(frozen=True)
class Request:
    """What the user asked for; `scheme` may be `auto`, `dtype` is for what stays unquantized.

    `rotated`: int8 rows of the source are rotated in groups of so many inputs (see `read`).
    `format`: `core`, or `lightx2v`, whose blocks may each be a file (`by_block`).
    `workers`: layers worked on at once, None for one per core; the bytes do not depend on it.
    `max_bytes`: of the file. With it `auto` means any of `candidates` for each layer (None: those
    that ComfyUI's loader reads), and another scheme means that one or none. `rounding`: one of
    ROUNDINGS. By layer name, from a calibration: `inputs`, the mean square of each input
    channel, and `input_scales` for the schemes that take one.
    """

    scheme: str = "auto"
    keep: tuple[str, ...] = ()
    dtype: str | None = None
    device: str = "cpu"
    capability: tuple[int, int] | None = None
    rotated: int | None = None
    format: str = CORE
    by_block: bool = False
    workers: int | None = None
    max_bytes: int | None = None
    candidates: tuple[str, ...] | None = None
    rounding: str = NEAREST
    inputs: Mapping[str, torch.Tensor] | None = None
    input_scales: Mapping[str, float] = field(default_factory=dict)

    @property
    def layers_at_once(self) -> int:
        """How many layers are worked on at a time."""
        return self.workers or worker_count(self.device)


@dataclass(frozen=True)
class Prepared:
    """Everything that is known of a new file before the first weight is read.

    `files`: the tensors of each file of a folder; empty where one file holds all. `measured`: for a
    budget; `insight`: what is known of the layers, where they were looked at.
    """

    source: Source
    request: Request
    model: Model
    outputs: tuple[Output, ...]
    metadata: Mapping[str, str]
    plan: Plan
    loras: tuple[LoraFile, ...] = ()
    fused: Fused = field(default_factory=Fused)
    files: Mapping[str, Sequence[TensorSpec]] = field(default_factory=dict)
    measured: Measured | None = None
    insight: Insight | None = None

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
    headers_only: bool = False,
) -> Prepared:
    """Headers in, the whole plan out. Refuses what cannot be done before anything is written.

    With a budget the weights are measured too; `progress` is told of that, and may end it.
    `measured`: of another plan for the same files that differs in `max_bytes` alone.
    `headers_only`: of a budget, only that it can be kept; which layer gets what is a guess.
    """
    request = request or Request()
    _check(request)
    model = recognise(read(source, request.rotated))
    fused = match(loras, model) if loras else Fused()
    if request.scheme == "auto" and request.max_bytes is None:
        request = replace(request, scheme=_auto(request))
    recipe = recipe_of(
        source,
        request.scheme,
        [(lora.source, lora.strength, lora.rslora) for lora in loras],
        request.keep,
        request.dtype,
        request.rotated,
        None if request.format == CORE else request.format,
    )
    recipe = replace(
        recipe, max_bytes=request.max_bytes, candidates=_candidates(request),
        rounding=request.rounding, calibration=digest_of(request.inputs, request.input_scales),
    )  # fmt: skip
    metadata = header(source, recipe.to_json())
    if request.max_bytes is not None:
        prepared = _within(
            source, model, request, metadata, fused, progress, measured, headers_only
        )
    elif request.format == CORE:
        choices = choose(model, request.scheme, keep=request.keep, dtype=request.dtype)
        prepared = lay_out(source, model, choices, request, metadata, fused)
    else:
        prepared = _for_lightx2v(source, model, request, metadata, fused)
    return replace(prepared, loras=tuple(loras))


def _candidates(request: Request) -> tuple[str, ...]:
    """What a layer may get within a budget; nothing where there is none."""
    if request.max_bytes is None:
        return ()
    if request.scheme != "auto":
        return (request.scheme,)
    return request.candidates or readable(COMFYUI)


def _within(
    source: Source,
    model: Model,
    request: Request,
    metadata: Mapping[str, str],
    fused: Fused,
    progress: Progress,
    measured: Measured | None,
    headers_only: bool,
) -> Prepared:
    """The plan of the file that moves the output least within the bytes that it may have."""
    wish = Wish(
        request.max_bytes or 0, _candidates(request), _auto(request), request.keep, request.dtype,
        request.device, request.rounding, request.inputs,
    )  # fmt: skip

    def size(tried: Sequence[Choice]) -> int:
        outputs = outputs_of(model, tried, fused, request.input_scales)
        return size_of(specs_of(outputs), metadata)

    choices, budget, measured = within(
        source, model, fused, wish, size, progress, measured, headers_only
    )
    prepared = lay_out(source, model, choices, request, metadata, fused)
    plan = prepared.plan
    plan = replace(
        plan, budget=budget, peak_private_bytes=max(plan.peak_private_bytes, budget.peak_bytes),
        warnings=(*budget.warnings, *plan.warnings),
    )  # fmt: skip
    return replace(prepared, plan=plan, measured=measured)


def _check(request: Request) -> None:
    known_rounding(request.rounding)
    if request.format not in FORMATS:
        raise Refused(
            "unknown-format",
            found=repr(request.format),
            expected=f"one of {', '.join(FORMATS)}",
            fix="leave the format out for ComfyUI's own",
        )
    if request.by_block and request.format == CORE:
        raise Refused(
            "by-block",
            found="one file for each block in ComfyUI's format",
            expected="the format lightx2v with it",
            fix="leave --by-block out, or add --format lightx2v",
        )
    if request.max_bytes is not None and request.format != CORE:
        raise Refused(
            "budget-for-format",
            found=f"a byte budget for {request.format}",
            expected=f"the format {CORE}: others have one scheme for all layers",
            fix="leave --max-gb or --format out",
        )


def _auto(request: Request) -> str:
    """The scheme that `auto` means: the device's best, or what any card multiplies in LightX2V."""
    if request.format == lightx2v.FORMAT:
        return next(iter(lightx2v.CODES))
    return auto_scheme(request.device, request.capability)[0]


def _for_lightx2v(
    source: Source, model: Model, request: Request, metadata: Mapping[str, str], fused: Fused
) -> Prepared:
    """LightX2V's tensors of the model alone; what else a checkpoint holds is no part of it."""
    dtype = dtype_of(request.dtype) if request.dtype else None
    outputs = lightx2v.outputs_of(model, request.scheme, dtype, request.keep, fused)
    files = lightx2v.blocks(specs_of(outputs)) if request.by_block else {}
    return _planned(source, model, outputs, request, metadata, fused, files)


def lay_out(
    source: Source,
    model: Model,
    choices: Sequence[Choice],
    request: Request,
    metadata: Mapping[str, str],
    fused: Fused | None = None,
) -> Prepared:
    """Choices in, the tensors of the new file and its exact size out.

    What else is in a full checkpoint (VAE, text encoder) keeps its numbers and its codes.
    """
    fused = fused or Fused()
    outputs = outputs_of(model, choices, fused, request.input_scales)
    return _planned(source, model, outputs, request, metadata, fused, {})


def _planned(
    source: Source,
    model: Model,
    outputs: tuple[Output, ...],
    request: Request,
    metadata: Mapping[str, str],
    fused: Fused,
    files: Mapping[str, Sequence[TensorSpec]],
) -> Prepared:
    """Outputs in, the plan of the new file or folder out."""
    specs = specs_of(outputs)
    plan = Plan(
        family=model.family.name,
        choices=tuple(output.choice for output in outputs),
        bytes=folder_size(files, metadata) if files else size_of(specs, metadata),
        peak_private_bytes=predicted_peak_bytes(
            outputs, fused, request.layers_at_once, request.rounding
        ),
        vram_bytes=sum(spec.size_bytes for spec in specs),
        warnings=(*warnings_of(outputs, fused, model), *_of_format(request, model)),
    )
    return Prepared(source, request, model, outputs, metadata, plan, fused=fused, files=files)


def _of_format(request: Request, model: Model) -> Iterable[str]:
    return () if request.format == CORE else warnings_of_format(request.format, model)


def convert(prepared: Prepared, target: Path, progress: Progress = silent) -> Written:
    """Write the file that the plan describes; on any error nothing is left behind."""
    started = time.perf_counter()
    prepared, progress = _looked_at(prepared, progress)
    jobs = [job_of(prepared, output) for output in prepared.outputs]
    total = sum(job.source_bytes for job in jobs)
    writer = _writer(prepared, target)
    with writer, single_threaded_torch():
        Stream(writer, progress, total).run(jobs, prepared.request.layers_at_once)
        del jobs
    return Written(
        out=Path(target),
        bytes=writer.size_bytes,
        seconds=time.perf_counter() - started,
        layers=dict(Counter(output.choice.scheme for output in prepared.outputs)),
        prepared=prepared,
    )


def _looked_at(prepared: Prepared, progress: Progress) -> tuple[Prepared, Progress]:
    """With what rounding must know of the layers, and the progress of what is left to do."""
    request = prepared.request
    if prepared.measured is not None:
        return replace(prepared, insight=prepared.measured.insight), progress
    if request.rounding == NEAREST:
        return prepared, progress
    before = learned_bytes(prepared.model)
    source_bytes = sum(job_of(prepared, output).source_bytes for output in prepared.outputs)
    meter = Meter(progress, before + source_bytes)
    insight = learn(
        prepared.source, prepared.model, prepared.fused, request.device, request.inputs, meter.add
    )
    return (
        replace(prepared, insight=insight),
        lambda done, total: progress(before + done, before + total),
    )


def _writer(prepared: Prepared, target: Path) -> Writer | FolderWriter:
    """Who writes the one file, or the folder of files."""
    if not prepared.files:
        return Writer(target, specs_of(prepared.outputs), prepared.metadata, prepared.close)
    index = lightx2v.INDEX
    return FolderWriter(target, prepared.files, prepared.metadata, index, prepared.close)


def placement(prepared: Prepared, vram_bytes: int) -> Placement:
    """Which layers of the new file stay on a card of `vram_bytes`."""
    sizes = [
        (output.choice.layer.name, sum(spec.size_bytes for spec in output.tensors.values()))
        for output in prepared.outputs
    ]
    return place(sizes, vram_bytes)


def job_of(prepared: Prepared, output: Output) -> Job:
    """What a worker does for one layer: it reads the rows and adds the LoRAs to them."""
    layer, whole, fused = output.choice.layer, output.whole, prepared.fused
    fuse = None
    if output.changed.key in fused.changes:
        fuse = partial(fused.reader, layer)
        if whole is not None:
            fuse = partial(_rows_of_whole, prepared, whole, output.first)
    rounding = rounding_of(output, prepared.insight, prepared.request)
    return Job(output, prepared.source, fuse, prepared.request.device, rounding)


def rounding_of(
    output: Output, insight: Insight | None, request: Request
) -> Callable[[], Rounder | None]:
    """What makes the rounder of a layer when a worker comes to it."""
    choice = output.choice
    if request.rounding == NEAREST or not choice.layer.is_matrix:
        return lambda: None
    known = insight.layers.get(output.changed.name) if insight else None
    return partial(
        rounder, all_schemes()[choice.scheme], choice.layer.shape[1], request.rounding,
        choice.dtype, known, request.device,
    )  # fmt: skip


def _rows_of_whole(prepared: Prepared, whole: Layer, first: int, base: RowReader) -> RowReader:
    """A reader of the rows of `whole` from `first` on, LoRAs added where they were matched."""
    read_whole = prepared.fused.reader(whole, rows_of(whole, prepared.source))
    return lambda start, stop: read_whole(start + first, stop + first)
