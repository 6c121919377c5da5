"""Models in, how far quantized files of equal bytes move their output out: ours beside all others.

Each model is small and has outlier channels; some have a LoRA that changes every block. The others
start from a bf16 file with the LoRA fused. Every file is run by the reference transformer of its
family, each layer computing as its scheme does, activations included; 0 is the fused model in
float32. The inputs are other normal numbers than those that our measuring uses, at another time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import torch

from ...kernels import registry
from ..budget.readers import COMFYUI, FUSEQUANT, readable
from ..budget.spend import Measured
from ..errors import Refused
from ..files.open import open_source
from ..fuse.lora import open_lora
from ..measure.config import Config, FluxConfig
from ..measure.lora import write_lora
from ..measure.quality import output_error
from ..measure.qwen import QwenConfig
from ..measure.references import Inputs, make_inputs
from ..measure.synthetic import write_like
from ..measure.wan import WanConfig
from ..pipeline import Prepared, Request, convert, prepare
from ..rounding_names import LEARNED, NEAREST, ROUNDINGS
from ..run import run_file
from . import contender, foreign

# name: sizes, and how the keys of its LoRA are spelled
MODELS: Mapping[str, tuple[Config, str | None]] = {
    "FLUX-like": (FluxConfig(256, 1, 2), None),
    "FLUX-like and a LoRA": (FluxConfig(256, 1, 2), "peft"),
    "Wan-like": (WanConfig(256, 768, 2), None),
    "Qwen-like and a LoRA": (QwenConfig(256, 2), "core"),
}
SEED, RANK = 5, 8
GRID, TEXT_TOKENS, TIME = (12, 12), 32, 0.6  # 0.8 and 0.3 are what measuring uses
ROUNDED = ("int8_convrot", "fp8", "int4_g128")
GOAL = 0.8

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One file.

    `who`: `fusequant` for ours within a budget, `plain` for one scheme for all layers, `rounding`
    for that rounded otherwise, or another tool. Of ours `budget` is what it was given, `best` the
    best other file in as many bytes and `ratio` our error over its. `cpu_seconds`: of making it,
    measuring included. `why_not`: there is no file, and why.
    """

    model: str
    who: str
    what: str
    bytes: int | None = None
    output_error: float | None = None
    cpu_seconds: float | None = None
    budget: int | None = None
    best: str | None = None
    best_error: float | None = None
    ratio: float | None = None
    why_not: str | None = None

    def to_json(self) -> dict[str, object]:
        """A row of the result file, without what it has not."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Case:
    """A model on disk: source, LoRA if any, both in one bf16 file; its inputs and exact output."""

    name: str
    source: Path
    lora: Path | None
    fused: Path
    inputs: Inputs
    exact: torch.Tensor

    def prepared(self, request: Request, measured: Measured | None = None) -> Prepared:
        """The plan of a file from the source and the LoRA."""
        loras = [open_lora(self.lora)] if self.lora else []
        return prepare(open_source(self.source), loras, request, measured=measured)

    def row(self, who: str, what: str, made: Path, cpu_seconds: float | None = None) -> Row:
        """A file that is there, run."""
        with registry.use_backend("reference"):
            error = output_error(self.exact, run_file(made, self.inputs)).relative_error
        return Row(self.name, who, what, made.stat().st_size, error, cpu_seconds)


def case_of(name: str, folder: Path) -> Case:
    """Write a model, its LoRA and the fused file over those of before; run it in float32."""
    config, spelling = MODELS[name]
    source, lora = folder / "source.safetensors", folder / "lora.safetensors"
    fused, exact = folder / "fused.safetensors", folder / "exact.safetensors"
    write_like(source, config, SEED)
    inputs = make_inputs(config, GRID, TEXT_TOKENS, seed=SEED + 1, timesteps=(TIME,))
    if spelling is None:
        return Case(name, source, None, source, inputs, run_file(source, inputs))
    write_lora(lora, config, spelling, RANK, SEED)
    case = Case(name, source, lora, fused, inputs, torch.empty(0))
    convert(case.prepared(Request(scheme="none")), fused)
    convert(case.prepared(Request(scheme="none", dtype="F32")), exact)
    return replace(case, exact=run_file(exact, inputs))


def others(case: Case, folder: Path, tools: Path | None) -> Iterator[Row]:
    """Every file that is not made within a budget."""
    target = folder / "other.safetensors"
    for scheme in readable(FUSEQUANT):
        started = time.process_time()
        convert(case.prepared(Request(scheme=scheme)), target)
        yield case.row("plain", scheme, target, time.process_time() - started)
    for scheme in contender.KITCHEN if find_spec("comfy_kitchen") else ():
        if scheme == "fp8_row":  # which stands for fp8 there
            continue
        started = time.process_time()
        target.unlink(missing_ok=True)
        contender.kitchen_loop(scheme, case.fused, target)()
        yield case.row("comfy-kitchen", scheme, target, time.process_time() - started)
    plain = case.prepared(Request(scheme="fp8"))
    plain.close()
    choices = [choice for choice in plain.plan.choices if choice.layer.is_matrix]
    quantized = [choice.layer.name for choice in choices if choice.scheme != "none"]
    kept = [choice.layer.name for choice in choices if choice.scheme == "none"]
    for other in foreign.FOREIGN:
        why_not = foreign.make(other, tools, case.fused, target, quantized, kept)
        if why_not is None:
            yield case.row(other.who, other.what, target)
        else:
            yield Row(case.name, other.who, other.what, why_not=why_not)


def rounded(case: Case, folder: Path) -> Iterator[Row]:
    """What each way to round costs and gains, one scheme for all layers."""
    target = folder / "rounded.safetensors"
    for scheme in ROUNDED:
        for how in ROUNDINGS:
            started = time.process_time()
            convert(case.prepared(Request(scheme=scheme, rounding=how)), target)
            yield case.row("rounding", f"{scheme}, {how}", target, time.process_time() - started)


def budgets(rows: Sequence[Row]) -> dict[str, int]:
    """The bytes of the best file of 4 and of 8 bits, and what lies between and above."""
    whole = [row for row in rows if row.bytes and row.output_error is not None]
    middle = sum(row.bytes or 0 for row in whole) / len(whole)

    def best(group: Sequence[Row]) -> int:
        return min(group, key=lambda row: row.output_error or 0).bytes or 0

    small = best([row for row in whole if (row.bytes or 0) < 0.85 * middle])
    large = best([row for row in whole if (row.bytes or 0) >= 0.85 * middle])
    return {
        "4 bits": small,
        "6 bits": (small + large) // 2,
        "8 bits": large,
        "12 bits": large + (large - small),
    }


def ours(case: Case, folder: Path, rows: Sequence[Row]) -> Iterator[Row]:
    """Our files at the bytes of the others."""
    found = budgets(rows)
    every, theirs = readable(FUSEQUANT), readable(COMFYUI)
    runs = (
        (LEARNED, every, "", tuple(found)),
        (LEARNED, theirs, " for ComfyUI's loader", ("8 bits", "12 bits")),
        (NEAREST, every, ", rounded to nearest", ("6 bits", "8 bits")),
    )
    measured: dict[str, Measured] = {}
    for rounding, candidates, told, names in runs:
        for name in names:
            started = time.process_time()
            request = Request(max_bytes=found[name], candidates=candidates, rounding=rounding)
            known = measured.get(rounding)
            prepared = case.prepared(request, known.only(candidates) if known else None)
            if known is None and prepared.measured is not None:
                measured[rounding] = prepared.measured
            target = folder / "ours.safetensors"
            convert(prepared, target)
            row = case.row("fusequant", f"{name}{told}", target, time.process_time() - started)
            yield compared(replace(row, budget=found[name]), rows)


def compared(row: Row, rows: Sequence[Row]) -> Row:
    """Our row with the best other one of no more bytes than its budget."""
    fit = [r for r in rows if r.bytes and r.output_error and r.bytes <= (row.budget or 0)]
    best = min(fit, key=lambda r: r.output_error or 0)
    ratio = (row.output_error or 0) / (best.output_error or 1)
    return replace(row, best=f"{best.who}: {best.what}", best_error=best.output_error, ratio=ratio)


def bench_quality(
    folder: Path,
    tools: Path | None = None,
    tell: Tell = lambda line: None,
    models: Sequence[str] = (),
) -> list[Row]:
    """Everything for every model, or for `models`; `tools` is the `bin` folder of other tools."""
    unknown = [name for name in models if name not in MODELS]
    if unknown:
        raise Refused(
            "unknown-model",
            found=", ".join(unknown),
            expected=f"one of {', '.join(MODELS)}",
            fix="leave --model out for all of them",
        )
    rows: list[Row] = []
    for name in models or MODELS:
        tell(f"{name}: writing the model, running it in float32")
        case = case_of(name, folder)
        found: list[Row] = []
        for row in others(case, folder, tools):
            found.append(row)
            tell(f"{name}: {told(row)}")
        rows += found
        for row in chain(ours(case, folder, found), rounded(case, folder)):
            rows.append(row)
            tell(f"{name}: {told(row)}")
    return rows


def told(row: Row) -> str:
    """A row in a line."""
    if row.why_not:
        return f"{row.who} {row.what}: {row.why_not}"
    size, error = (row.bytes or 0) / 1e6, row.output_error or 0
    ratio = "" if row.ratio is None else f", {row.ratio:.2f} of {row.best}"
    return f"{row.who} {row.what}: {size:.2f} MB, output error {error:.5f}{ratio}"
