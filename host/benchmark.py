"""A MODEL in, what the orders of fusing and quantizing cost with the graph's own sampler out.

All orders are sampled in turns, in one run; what is measured is written as a result file.
"""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import comfy.model_management
import torch

from ..engine.bench.ops import Bench, bench_ops, shapes_of, speed_chart, totals
from ..engine.bench.order import Row, error_chart, time_chart
from ..engine.measure.errors import relative_error
from ..engine.measure.hardware import hardware
from ..engine.measure.picture import blank, pixels, stacked
from ..engine.measure.results import Result, write_as
from ..engine.measure.table import text_table
from ..engine.measure.timing import PrivatePeak
from . import paths, vram
from .choosing import chosen_for, exact_scheme
from .effective import linear_weights
from .end_to_end import Sampling, sampled
from .lora_match import Lora
from .model import quantizing_device
from .ops import compute_dtype_of
from .progress import host_progress
from .quality import compare_weights
from .report import size
from .strategies import ON_BASE, STRATEGIES, Wiring, patched, quantized

OTHER_STRENGTH = 0.7  # of the strength asked for: what a switch goes to
FOLDER = "fusequant/benchmark"


@dataclass
class Benchmark:
    """Rows of a result file, how they read, and where they lie."""

    name: str
    rows: list[dict[str, Any]]
    settings: Mapping[str, object]
    notes: list[str] = field(default_factory=list)
    path: str = ""

    def save(self) -> None:
        """Write the result file below ComfyUI's output folder; its number is the next free one."""
        today = datetime.date.today().isoformat()
        result = Result(self.name, today, self.rows, hardware(), settings=self.settings)
        self.path = str(write_as(paths.output_file(f"{FOLDER}/{self.name}", ".json"), result))

    def text(self) -> str:
        """The table, then the notes."""
        head, rows = (_order_table if self.name == "order" else _kernel_table)(self.rows)
        where = [f"written to {self.path}"] if self.path else []
        return "\n".join([text_table(head, rows), *self.notes, *where])

    def chart(self) -> torch.Tensor:
        """The charts below each other as one picture."""
        draw = {"order": (time_chart, error_chart), "kernels": (speed_chart,)}[self.name]
        figures = [one(self.rows) for one in draw]
        self.notes += list(dict.fromkeys(f for f in figures if isinstance(f, str)))
        drawn = [pixels(figure) for figure in figures if not isinstance(figure, str)]
        return stacked(drawn) if drawn else blank()


def bench_order(
    source: Any, lora: Lora, scheme: str, sampling: Sampling, rounds: int = 3
) -> Benchmark:
    """Every order, sampled in turns; the stock LoRA on unquantized weights is the reference."""
    scheme = exact_scheme(scheme, source.load_device)[0]
    wiring = Wiring(source, lora, scheme)
    started = time.perf_counter()
    wiring = replace(wiring, base=quantized(source, scheme))
    base_s = time.perf_counter() - started
    rows, models = {}, {}
    progress = host_progress()
    total = len(STRATEGIES) * (rounds + 2)
    for at, (name, build) in enumerate(STRATEGIES.items()):
        progress(at, total)
        started = time.perf_counter()
        models[name] = build(wiring)
        rows[name] = Row(name, scheme, bytes=models[name].model_size())
        rows[name].load_s = time.perf_counter() - started + base_s * (name in ON_BASE)
    latents = _turns(models, rows, sampling, rounds, lambda n: progress(len(models) + n, total))
    wanted = dict(patched(source, lora).patches)
    for at, (name, patcher) in enumerate(models.items()):
        progress(total - len(models) + at, total)
        layers, _ = compare_weights(source, patcher, wanted)
        touched = [x for x in layers if f"diffusion_model.{x.name}.weight" in wanted]
        errors = [layer.relative_error for layer in touched or layers]
        rows[name].weight_error = statistics.fmean(errors)
        rows[name].output_error = relative_error(latents["lora_patch"], latents[name])
        _switches(wiring, name, rows[name])
    settings = {
        "steps": sampling.steps, "cfg": sampling.cfg, "sampler": sampling.sampler,
        "scheduler": sampling.scheduler, "seed": sampling.seed, "rounds": rounds,
        "latent": list(sampling.latent["samples"].shape), "lora": lora.path.name,
        "strength": lora.strength, "device": str(source.load_device),
    }  # fmt: skip
    found = Benchmark("order", [row.to_json() for row in rows.values()], settings)
    found.notes.append(
        "output error: of the latent, against lora_patch at the same seed. lora_then_quantize and "
        "fused_quantized have the same numbers: Quantize Model fuses what it finds in float32."
    )
    if source.load_device.type == "cpu":
        found.notes.append("on a CPU nothing is offloaded: low_vram is lora_patch, measured twice")
    return found


def _turns(
    models: Mapping[str, Any], rows: Mapping[str, Row], sampling: Sampling, rounds: int, tell: Any
) -> dict[str, torch.Tensor]:
    """Sample every order once a round, each round beginning with another one; the latents."""
    names, latents = list(models), {}
    for turn in range(rounds):
        first = turn % len(names)
        for at, name in enumerate([*names[first:], *names[:first]]):
            tell(turn * len(names) + at)
            patcher, marks = models[name], [time.perf_counter()]
            device = patcher.load_device
            with PrivatePeak(meter=_meter(device)) as peak:
                latent = sampled(patcher, sampling, partial(_mark, marks, device))
            row, steps = rows[name], [b - a for a, b in pairwise(marks)]
            # the first step of a sampling has the loading in it
            row.steps_s += steps[1:] or steps
            row.load_s += max(0.0, steps[0] - min(row.steps_s)) if turn == 0 else 0.0
            row.peak_bytes = max(row.peak_bytes or 0, peak.peak_bytes or 0)
            latents.setdefault(name, latent.float())
    return latents


def _meter(device: torch.device) -> Callable[[], int | None] | None:
    """The device's allocator, else private memory."""
    return partial(vram.reserved_bytes, device) if device.type in ("cuda", "xpu") else None


def _mark(marks: list[float], device: torch.device, *_: Any) -> None:
    """Note the time of a step."""
    marks.append(_now(device))


def _now(device: torch.device) -> float:
    """The time when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _switches(wiring: Wiring, name: str, row: Row) -> None:
    """Another strength and back again, until the weights are where they are computed from."""
    other = replace(wiring.lora, strength=OTHER_STRENGTH * wiring.lora.strength)
    for lora, what in ((other, "first_switch_s"), (wiring.lora, "switch_s")):
        started = time.perf_counter()
        patcher = STRATEGIES[name](replace(wiring, lora=lora))
        comfy.model_management.load_models_gpu([patcher])
        setattr(row, what, _now(patcher.load_device) - started)


def bench_kernels(patcher: Any, tokens: int, budget_s: float = 8.0) -> Benchmark:
    """Every scheme and backend that runs here on the layer shapes of a MODEL."""
    shapes = linear_weights(patcher)
    chosen = chosen_for(patcher.model, "int8", ()).choices
    matrices = [
        (shape[0], shape[1])
        for key, shape in shapes.items()
        if key.removesuffix(".weight") in chosen
        and chosen[key.removesuffix(".weight")].scheme != "none"
    ]
    device = quantizing_device(patcher.load_device)
    asked = Bench(device, compute_dtype_of(patcher), tokens, budget_s)
    rows = bench_ops(shapes_of(matrices), asked)
    measured = rows[0]["tokens"]
    found = Benchmark("kernels", rows, {"tokens": tokens, "device": str(device),
                                        "dtype": str(asked.dtype)})  # fmt: skip
    if measured != tokens:
        found.notes.append(f"measured with {measured} of {tokens} tokens, to take seconds only")
    found.notes += [f"not run: {who}: {why}" for who, why in asked.refused.items()]
    return found


def _order_table(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[Any]]:
    head = ("order", "load s", "step s", "new strength s", "old one s", "peak", "weights",
            "weight error", "output error")  # fmt: skip
    return head, [
        (
            row["strategy"], f"{row['load_s']:.2f}", f"{row['step_s']:.3f}",
            f"{row['first_switch_s']:.3f}", f"{row['switch_s']:.3f}", size(row["peak_bytes"] or 0),
            size(row["bytes"]), f"{row['weight_error']:.5f}", f"{row['output_error']:.5f}",
        )
        for row in rows
    ]  # fmt: skip


def _kernel_table(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[Any]]:
    head = ("scheme", "backend", "auto", "seconds", "times as fast", "error")
    return head, [
        (
            row["scheme"], row["backend"], "auto" if row["auto"] else "",
            f"{row['seconds']:.4f}", f"{row['ratio']:.2f}", f"{row['error']:.4f}",
        )
        for row in totals(rows)
    ]  # fmt: skip
