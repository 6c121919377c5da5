"""A model file, LoRA files and a scheme in, one fused and quantized file out, layer by layer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import torch

from ..engine.choose import dtype_of
from ..engine.files.open import open_source
from ..engine.fuse.lora import open_lora
from ..engine.model import families
from ..engine.pipeline import CORE, Prepared, Written, convert, prepare
from ..engine.pipeline import Request as Conversion
from ..engine.stream import worker_count
from .choosing import exact_scheme
from .model import quantizing_device
from .paths import output_file
from .progress import host_progress, tell
from .report import Report, shown, size

log = logging.getLogger(__name__)

AUTO = "auto"
CHUNK_ELEMENTS = 1 << 25  # of a weight on a GPU; a few float32 copies of it for each worker


@dataclass(frozen=True)
class Wanted:
    """What the user asked for; `dtype` is for what stays unquantized, None as in the source.

    `rotated`: int8 rows of the source are rotated although its file does not say so. `format`: who
    the file is for; `by_block`: a folder with a file for each block.
    """

    scheme: str = "auto"
    keep: tuple[str, ...] = ()
    dtype: str | None = None
    rslora: bool = False
    cpu: bool = False
    rotated: int | None = None
    format: str = CORE
    by_block: bool = False


def convert_file(
    path: Path, loras: Sequence[tuple[Path, float]], wanted: Wanted, prefix: str
) -> tuple[Path, Report]:
    """(file, report). The same bytes as the command line writes; nothing is left on an interrupt.

    The file is `prefix` and a number in the output folder.
    """
    target = output_file(prefix, "" if wanted.by_block else ".safetensors")
    prepared = prepared_for(path, loras, wanted)
    try:
        report = Report(f"Fuse + Quantize + Save: {prepared.request.scheme}")
        will = f"will write {prepared.plan.bytes / 1e9:.2f} GB to {target.name}"
        log.info("%s: %s", report.title, will)
        tell(will)
        progress = host_progress()
        progress(0, 1)  # here and not in a thread: the bar belongs to the running node
        written = convert(prepared, target, progress)
    finally:
        prepared.close()
    _tell(written, report)
    log.info("%s", report.text().replace("\n", "; "))
    return target, report


def prepared_for(path: Path, loras: Sequence[tuple[Path, float]], wanted: Wanted) -> Prepared:
    """The plan of a file, from headers alone; the sources are open until it is closed."""
    device = torch.device("cpu")
    if not wanted.cpu:
        device = quantizing_device(comfy.model_management.get_torch_device())
    if device.type != "cpu":
        room = 4 * 4 * CHUNK_ELEMENTS * worker_count(str(device))
        comfy.model_management.free_memory(room, device)
    scheme = AUTO  # in another format than ComfyUI's it does not depend on the device
    if wanted.format == CORE or wanted.scheme != AUTO:
        scheme, _ = exact_scheme(wanted.scheme, device)
    dtype = dtype_of(wanted.dtype) if wanted.dtype else None
    source = open_source(path)
    files = []
    try:
        for lora, strength in loras:
            files.append(open_lora(lora, strength, wanted.rslora))
        asked = Conversion(
            scheme, wanted.keep, dtype, str(device), rotated=wanted.rotated,
            format=wanted.format, by_block=wanted.by_block,
        )  # fmt: skip
        return prepare(source, files, asked)
    except BaseException:
        for file in files:
            file.close()
        source.close()
        raise


def _tell(written: Written, report: Report) -> None:
    """The file, what became of each layer and of each LoRA."""
    prepared = written.prepared
    report.family = families()[prepared.plan.family].title
    report.notes.append(f"{written.out}: {size(written.bytes)}")
    report.schemes.update({s: n for s, n in written.layers.items() if s != "none"})
    for choice in prepared.plan.choices:
        if choice.scheme == "none" and choice.layer.is_matrix:
            report.keep(choice.layer.name, choice.why)
    for lora in prepared.fused.report:
        name = Path(lora.file).name
        report.notes.append(f"{name} at {lora.strength:g}: {lora.matched} modules fused")
        report.notes += [f"{name}: {note}" for note in lora.notes]
        if lora.unmatched:
            report.warn(
                f"{name}: {len(lora.unmatched)} modules match no layer: {shown(lora.unmatched)}"
            )
    for warning in prepared.plan.warnings:
        report.warn(warning)
    report.seconds = written.seconds
