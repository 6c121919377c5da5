"""The story on one page: open, recognise, match LoRAs, choose, then per layer fuse, quantize, save.

A plan is made from headers alone; nothing is written before the whole plan stands.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from . import lightx2v
from .auto import auto_scheme
from .choose import choose, dtype_of
from .errors import Refused
from .files.folder_writer import FolderWriter, folder_size
from .files.writer import Writer, size_of
from .fuse.lora import Fused, LoraFile, match
from .layer import Layer
from .memory import predicted_peak_bytes
from .model import Model, recognise
from .outputs import Output, output_of, specs_of
from .place.budget import Placement, place
from .plan import Choice, Plan
from .read import read
from .recipe import header, recipe_of
from .repairable import mend_layer, plain_codes
from .rows import RowReader, rows_of
from .source import Source
from .stream import Job, Progress, Stream, single_threaded_torch, worker_count
from .tensors import TensorSpec

CORE = "core"
FORMATS = (CORE, lightx2v.FORMAT)


@dataclass(frozen=True)
class Request:
    """What the user asked for; `scheme` may be `auto`, `dtype` is for what stays unquantized.

    `rotated`: int8 rows of the source are rotated in groups of so many inputs (see `read`).
    `format`: `core`, or `lightx2v`, whose blocks may each be a file (`by_block`).
    `workers`: layers worked on at once, None for one per core; the bytes do not depend on it.
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

    @property
    def layers_at_once(self) -> int:
        """How many layers are worked on at a time."""
        return self.workers or worker_count(self.device)


@dataclass(frozen=True)
class Prepared:
    """Everything that is known of a new file before the first weight is read.

    `files`: the tensors of each file of a folder; empty where one file holds all.
    """

    source: Source
    request: Request
    outputs: tuple[Output, ...]
    metadata: Mapping[str, str]
    plan: Plan
    loras: tuple[LoraFile, ...] = ()
    fused: Fused = field(default_factory=Fused)
    files: Mapping[str, Sequence[TensorSpec]] = field(default_factory=dict)

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
    source: Source, loras: Sequence[LoraFile] = (), request: Request | None = None
) -> Prepared:
    """Headers in, the whole plan out. Refuses what cannot be done before anything is written."""
    request = request or Request()
    _check_format(request)
    model = recognise(read(source, request.rotated))
    fused = match(loras, model) if loras else Fused()
    if request.scheme == "auto":
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
    metadata = header(source, recipe.to_json())
    if request.format == CORE:
        choices = choose(model, request.scheme, keep=request.keep, dtype=request.dtype)
        prepared = lay_out(source, model, choices, request, metadata, fused)
    else:
        prepared = _for_lightx2v(source, model, request, metadata, fused)
    return replace(prepared, loras=tuple(loras))


def _check_format(request: Request) -> None:
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
    beside = [_beside(layer) for layer in model.others]
    outputs = (
        *(output_of(c, c.layer.key in fused.changes, model.written_prefix) for c in choices),
        *(output_of(c, touched=False) for c in beside),
    )
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
        peak_private_bytes=predicted_peak_bytes(outputs, fused, request.layers_at_once),
        vram_bytes=sum(spec.size_bytes for spec in specs),
        warnings=tuple(_warnings(outputs, fused, model, request)),
    )
    return Prepared(source, request, outputs, metadata, plan, fused=fused, files=files)


def _beside(layer: Layer) -> Choice:
    """A layer outside the model: as it is stored; what no format holds becomes floating point."""
    mended = mend_layer(plain_codes(layer)).choice
    return replace(mended, why="not part of the model")


def _warnings(outputs: Sequence[Output], fused: Fused, model: Model, request: Request) -> list[str]:
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
        for o in outputs
        if "input_scale" not in o.tensors
        and any("input_scale" in part.tensors for part in o.choice.layer.parts)
    ]
    if lost:
        found.append(f"{len(lost)} layers lose their calibrated input_scale")
    if model.unused:
        named = ", ".join(layer.key for layer in model.unused[:3])
        found.append(f"{len(model.unused)} tensors have no place in this model: {named}")
    if request.format != CORE:
        found.append(
            f"a file for {request.format}: ComfyUI's own loaders ignore its scales, "
            "FuseQuant's open it"
        )
        if model.others:
            found.append(f"{len(model.others)} tensors beside the model are left out")
    return found


def convert(
    prepared: Prepared, target: Path, progress: Progress = lambda done, total: None
) -> Written:
    """Write the file that the plan describes; on any error nothing is left behind."""
    started = time.perf_counter()
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
    return Job(output, prepared.source, fuse, prepared.request.device)


def _rows_of_whole(prepared: Prepared, whole: Layer, first: int, base: RowReader) -> RowReader:
    """A reader of the rows of `whole` from `first` on, LoRAs added where they were matched."""
    read_whole = prepared.fused.reader(whole, rows_of(whole, prepared.source))
    return lambda start, stop: read_whole(start + first, stop + first)
