"""A folder in, the main job done on an embedded model out: fuse, quantize, save, measure.

The model is the reference transformer with outlier channels; two LoRAs in two spellings are fused.
Every scheme is measured twice: LoRAs fused before quantizing, and added to the quantized file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .choose import choose
from .compare import compare
from .files.open import open_source
from .fuse.lora import open_lora
from .measure.chart import bars
from .measure.config import FluxConfig
from .measure.lora import write_lora
from .measure.quality import Inputs, bind, make_inputs, output, output_error
from .measure.synthetic import write_flux_like
from .model import recognise
from .pipeline import Prepared, Request, convert, lay_out, placement, prepare
from .read import read
from .rows import all_schemes, row_count, rows_of
from .specs import spec

CONFIG = FluxConfig(hidden=768, double_blocks=2, single_blocks=3)
LORAS = (
    ("distill-lora.safetensors", "peft", 32, 1.0),
    ("style-lora.safetensors", "kohya", 16, 0.8),
)
CARDS_GIB = (8, 12, 16, 24)
LADDER = ("none", "int8", "int4_g128")  # what a card is offered, widest first
# one model of each size and kind: pictures, videos, text encoders
SHOWN = (
    "sd3.5-medium", "flux2-klein-4b", "z-image-turbo", "qwen-image-2.1", "chroma1-hd",
    "flux2-klein-9b", "flux1-dev", "krea-2", "hidream-i1", "qwen-image-edit-2511", "flux2-dev",
    "wan2.2-ti2v-5b", "hunyuan-video-1.5", "ltx-video-0.9-13b", "wan2.2-i2v-14b", "ltx-2",
    "qwen3-4b", "t5-xxl", "umt5-xxl", "qwen2.5-vl-7b",
)  # fmt: skip

Tell = Callable[[str], None]


@dataclass(frozen=True)
class SchemeRow:
    """One scheme: `fused` LoRAs before quantizing, `after` LoRAs on the quantized file."""

    scheme: str
    bytes: int
    weight_error_fused: float
    weight_error_after: float
    output_error_fused: float
    output_error_after: float
    seconds: float


@dataclass(frozen=True)
class Demo:
    """Everything that was made and measured."""

    folder: Path
    source_bytes: int
    schemes: tuple[SchemeRow, ...]
    cards: tuple[Mapping[str, str], ...]
    chart: Path | None
    chart_refusal: str | None
    seconds: float

    def to_json(self) -> dict[str, object]:
        """The answer of `fusequant demo --json`."""
        return {
            "folder": str(self.folder),
            "source_bytes": self.source_bytes,
            "schemes": [asdict(row) for row in self.schemes],
            "cards": [dict(row) for row in self.cards],
            "chart": str(self.chart) if self.chart else None,
            "chart_refusal": self.chart_refusal,
            "seconds": round(self.seconds, 2),
        }


def prepare_files(source: Path, loras: Sequence[tuple[Path, float]], request: Request) -> Prepared:
    """Open and plan, as the command line does."""
    opened = [open_lora(path, strength) for path, strength in loras]
    return prepare(open_source(source), opened, request)


def run_file(path: Path, inputs: Inputs) -> torch.Tensor:
    """The reference transformer's output with a file's weights, quantized layers as they are."""
    source = open_source(path)
    layers = {layer.key: layer for layer in recognise(read(source)).layers}
    linears = {}

    def weight(key: str) -> torch.Tensor:
        layer = layers[key]
        return rows_of(layer, source)(0, row_count(layer)).reshape(layer.shape)

    for layer in layers.values():
        if layer.scheme == "none":
            continue
        part = layer.parts[0]
        tensors = {role: source.tensor(name).clone() for role, name in part.tensors.items()}
        bias = weight(f"{layer.name}.bias") if f"{layer.name}.bias" in layers else None
        linears[layer.name] = bind(all_schemes()[layer.scheme], tensors, part.settings, bias)
    found = output(CONFIG, {key: weight(key) for key in layers}, inputs, linears)
    source.close()
    return found


def weight_error(reference: Path, made: Path, quantized: set[str]) -> float:
    """Mean relative error over the layers that the scheme takes."""
    first, second = open_source(reference), open_source(made)
    rows = [x.relative_error for x in compare(first, second).layers if x.name in quantized]
    first.close()
    second.close()
    return sum(rows) / max(1, len(rows))


@dataclass(frozen=True)
class Exact:
    """The fused model in float32: its file, one set of inputs and what it answers."""

    file: Path
    inputs: Inputs
    output: torch.Tensor


def measure_scheme(
    folder: Path, source: Path, loras: Sequence[tuple[Path, float]], scheme: str, exact: Exact
) -> SchemeRow:
    """Make the file both ways and measure both against the fused float32 model."""
    fused, plain = folder / f"model-{scheme}.safetensors", folder / f"plain-{scheme}.safetensors"
    after = folder / f"after-{scheme}.safetensors"
    request = Request(scheme=scheme)
    prepared = prepare_files(source, loras, request)
    written = convert(prepared, fused)
    quantized = {c.layer.name for c in prepared.plan.choices if c.scheme != "none"}
    convert(prepare_files(source, (), request), plain)
    convert(prepare_files(plain, loras, request), after)

    def moved(path: Path) -> float:
        return output_error(exact.output, run_file(path, exact.inputs)).relative_error

    row = SchemeRow(
        scheme=scheme,
        bytes=written.bytes,
        weight_error_fused=weight_error(exact.file, fused, quantized),
        weight_error_after=weight_error(exact.file, after, quantized),
        output_error_fused=moved(fused),
        output_error_after=moved(after),
        seconds=written.seconds,
    )
    plain.unlink()
    after.unlink()
    return row


def card_rows(
    shown: Sequence[str] = SHOWN, cards_gib: Sequence[int] = CARDS_GIB
) -> tuple[Mapping[str, str], ...]:
    """For each public model, what each card can hold: predicted from names and shapes alone."""
    rows = []
    for name in shown:
        source = spec(name)
        model = recognise(read(source))
        plans = {
            scheme: lay_out(source, model, choose(model, scheme), Request(scheme=scheme), {})
            for scheme in LADDER
        }
        row = {"model": name, "16-bit": f"{plans['none'].plan.bytes / 1e9:.1f} GB"}
        row |= {f"{gib} GB": card_cell(plans, gib) for gib in cards_gib}
        rows.append(row)
    return tuple(rows)


def card_cell(plans: Mapping[str, Prepared], gib: int) -> str:
    """The widest scheme that stays on the card, else 8-bit with what is streamed each step."""
    for scheme, prepared in plans.items():
        if placement(prepared, gib << 30).fits:
            return "16-bit" if scheme == "none" else scheme
    streamed = placement(plans["int8"], gib << 30).streamed_bytes
    return f"int8, {streamed / 1e9:.1f} GB streamed"


def draw(folder: Path, rows: Sequence[SchemeRow]) -> tuple[Path | None, str | None]:
    """(chart, None), or (None, why there is none)."""
    chart = folder / "output-error.png"
    refusal = bars(
        chart,
        "How far the output moves, by scheme and by order",
        [
            (
                f"{row.scheme} ({row.bytes / 1e6:.0f} MB)",
                {
                    "LoRAs fused, then quantized": 100 * row.output_error_fused,
                    "quantized, then LoRAs added": 100 * row.output_error_after,
                },
            )
            for row in rows
            if row.scheme != "none"
        ],
        unit="relative error of the output, %",
        note="Reference transformer with outlier channels; float32 with the same LoRAs is 0.",
    )
    return (None, refusal) if refusal else (chart, None)


def run_demo(folder: Path, tell: Tell = lambda line: None) -> Demo:
    """Everything in order; the folder keeps source, LoRAs, a file per scheme and the chart."""
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "model-bf16.safetensors"
    tell("writing a model with outlier channels and two LoRAs")
    write_flux_like(source, CONFIG, seed=0)
    loras = []
    for name, spelling, rank, strength in LORAS:
        write_lora(folder / name, CONFIG, spelling, rank, seed=0)
        loras.append((folder / name, strength))
    reference, inputs = folder / "reference-fp32.safetensors", make_inputs(CONFIG)
    convert(prepare_files(source, loras, Request(scheme="none", dtype="F32")), reference)
    exact = Exact(reference, inputs, run_file(reference, inputs))
    rows = []
    for scheme in all_schemes():
        tell(f"fuse, quantize, save: {scheme}")
        rows.append(measure_scheme(folder, source, loras, scheme, exact))
    tell("planning the public models from their names and shapes")
    cards = card_rows()
    chart, refusal = draw(folder, rows)
    return Demo(
        folder, source.stat().st_size, tuple(rows), cards, chart, refusal,
        time.perf_counter() - started,
    )  # fmt: skip
