"""Schemes in, what each order of fusing, quantizing and offloading costs and keeps out.

Eight strategies, each in a process of its own, run the reference transformer in turns. Errors are
against float32 with the same LoRA. It is no ComfyUI: the Benchmark node measures the same there.
"""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..files.open import open_source
from ..fuse.lora import open_lora
from ..measure.chart import bars_figure
from ..measure.config import FluxConfig
from ..measure.errors import relative_error
from ..measure.lora import write_lora
from ..measure.synthetic import write_flux_like
from ..pipeline import Request, convert, prepare
from ..rows import all_schemes
from .strategies import STRATEGIES, WITH_SCHEME, Task
from .turns import Waiting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG = FluxConfig(hidden=768, double_blocks=2, single_blocks=3)
RANK, STRENGTH, OTHER_STRENGTH = 32, 1.0, 0.7
NOTE = (
    "reference transformer on the CPU, not ComfyUI; a stock LoRA is rounded to nearest here, "
    "ComfyUI rounds it stochastically, which errs more"
)
Tell = Callable[[str], None]


@dataclass
class Row:
    """One strategy at one scheme, all rounds. Seconds; bytes; errors without a unit.

    `first_switch_s` is a switch to a strength that was never used, `switch_s` back to one that was.
    """

    strategy: str
    scheme: str
    load_s: float = 0.0
    steps_s: list[float] = field(default_factory=list)
    first_switch_s: float = 0.0
    switch_s: float = 0.0
    peak_bytes: int | None = None
    bytes: int = 0
    weight_error: float = 0.0
    output_error: float = 0.0

    @property
    def step_s(self) -> float:
        """The middle one of the steps."""
        return statistics.median(self.steps_s) if self.steps_s else 0.0

    def to_json(self) -> dict[str, object]:
        """A row of the result file."""
        facts = {k: round(v, 6) if isinstance(v, float) else v for k, v in vars(self).items()}
        facts["steps_s"] = [round(seconds, 4) for seconds in self.steps_s]
        width = max(self.steps_s, default=0.0) - min(self.steps_s, default=0.0)
        spread = width / self.step_s if self.step_s else 0.0
        return {**facts, "step_s": round(self.step_s, 4), "spread": round(spread, 3)}


def bench_order(
    folder: Path,
    schemes: Sequence[str] | None = None,
    rounds: int = 5,
    config: FluxConfig = CONFIG,
    tell: Tell = lambda line: None,
) -> list[Row]:
    """Every strategy, those that quantize once for each scheme; files are made in `folder`."""
    model, lora = folder / "model.safetensors", folder / "lora.safetensors"
    write_flux_like(model, config, seed=0)
    write_lora(lora, config, "kohya", RANK, seed=0)
    exact = folder / "exact.safetensors"
    fused = prepare(open_source(model), [open_lora(lora)], Request(scheme="none", dtype="F32"))
    convert(fused, exact)
    rows = []
    task = Task(model, lora, "none", folder)
    wanted = _output(task, exact, folder / "wanted.safetensors")
    asked = list(schemes or [name for name in all_schemes() if name != "none"])
    for scheme in ["none", *asked]:
        names = [name for name in STRATEGIES if (name in WITH_SCHEME) == (scheme != "none")]
        tell(f"{scheme}: {', '.join(names)}")
        rows += _in_turns(Task(model, lora, scheme, folder), names, rounds, exact, wanted)
    return rows


def _output(task: Task, exact: Path, path: Path) -> torch.Tensor:
    """The output of the fused float32 model."""
    with _process("fused", Task(exact, task.lora, "none", task.folder)) as process:
        process.ask(do="load", strength=0.0)
        process.ask(do="output", path=str(path))
    return _read(path)


def _read(path: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(path)["output"]


def _process(name: str, task: Task) -> Waiting:
    package = (__package__ or "").removesuffix(".engine.bench")
    facts: Mapping[str, Any] = {
        "model": str(task.model), "lora": str(task.lora), "scheme": task.scheme,
        "folder": str(task.folder), "grid": task.grid, "text_tokens": task.text_tokens,
    }  # fmt: skip
    return Waiting(f"{package}.engine.bench.strategy", [name, json.dumps(facts)])


def _in_turns(
    task: Task, names: Sequence[str], rounds: int, exact: Path, wanted: torch.Tensor
) -> list[Row]:
    """Load each, then steps in turns, then the two switches; errors at the end."""
    rows = {name: Row(name, task.scheme) for name in names}
    with ExitStack() as stack:
        running = {name: stack.enter_context(_process(name, task)) for name in names}
        for name, process in running.items():
            _take(rows[name], process.ask(do="load", strength=STRENGTH), "load_s")
        for turn in range(rounds + 1):
            first = turn % len(names)
            for name in [*names[first:], *names[:first]]:
                found = running[name].ask(do="step")
                if turn:
                    rows[name].steps_s.append(found["seconds"])
                _take(rows[name], found, None)
        for name, process in running.items():
            path = task.folder / f"output-{name}.safetensors"
            process.ask(do="output", path=str(path))
            rows[name].output_error = relative_error(wanted, _read(path))
            told = process.ask(do="error", reference=str(exact))
            rows[name].weight_error = told["weight_error"]
        for name, process in running.items():
            there = process.ask(do="switch", strength=OTHER_STRENGTH)
            _take(rows[name], there, "first_switch_s")
            _take(rows[name], process.ask(do="switch", strength=STRENGTH), "switch_s")
    return list(rows.values())


def _take(row: Row, found: Mapping[str, Any], seconds: str | None) -> None:
    """Note what an order took."""
    if seconds is not None:
        setattr(row, seconds, found["seconds"])
    if "bytes" in found:
        row.bytes = found["bytes"]
    if found["peak_bytes"] is not None:
        row.peak_bytes = max(row.peak_bytes or 0, found["peak_bytes"])


QUANTIZING = ("quantize_then_lora", "lora_then_quantize", "fused_quantized", "live_lora")


def error_chart(rows: Sequence[Mapping[str, Any]], note: str = "") -> Figure | str:
    """Output error in per cent by scheme, a bar a strategy that quantizes; or why there is none."""
    shown = [row for row in rows if row["strategy"] in QUANTIZING]
    schemes = dict.fromkeys(row["scheme"] for row in shown)
    return bars_figure(
        "How far the output moves, by order",
        [
            (
                scheme,
                {
                    row["strategy"]: 100 * row["output_error"]
                    for row in shown
                    if row["scheme"] == scheme
                },
            )
            for scheme in schemes
        ],
        unit="relative error of the output, %",
        note=textwrap.fill(note, 120),
    )


def time_chart(rows: Sequence[Mapping[str, Any]]) -> Figure | str:
    """Seconds of a step and of a change of strength, a group of bars a strategy."""
    return bars_figure(
        "What each order costs",
        [
            (row["strategy"], {"step": row["step_s"], "new strength": row["first_switch_s"]})
            for row in rows
        ],
        unit="seconds",
    )
