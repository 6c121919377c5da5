"""Widths of diffusion transformers times numbers of rows in, the time of every way to multiply out.

Each shape has torch's own product in bfloat16 and float32, what ComfyUI, torchao and quanto make
of the weight, and ours with the quantizing of x included. Whoever is outside its bound of error is
told and not timed; the others take turns. Cells that the budget has no time for are told as well.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling

from ...kernels import ops, order, passes
from ...kernels.registry import NoBackend, refusal, use_backend
from ..measure.errors import relative_error
from ..measure.synthetic import generator
from ..measure.timing import time_in_turns
from ..rows import all_schemes
from ..tensors import dtype_name
from .ops import BASELINE, Bench, contenders, waiting
from .rivals import RIVALS, Rival, prepared

# (N, K): 3072 wide as FLUX and Qwen-Image are, 5120 wide as Wan is
SHAPES = ((3072, 3072), (12288, 3072), (5120, 5120), (13824, 5120))
ROWS = (256, 1024, 4096, 16384)
FEW_ROWS = 16  # measured as well where an order of backends is made
SCHEMES = ("int8", "int8_convrot", "fp8", "fp8_row", "int4_g128", "int8_weight_only")
ROUNDS, WARMUP = 3, 1
TRIAL_ROWS = 8
HOPELESS = 8.0  # times slower than the fastest product of torch: told, and timed no further
PEAK_SIZE = 1024
SLOW_S = 0.5  # for the trial rows: no second trial is needed to know
OURS, TORCH = "fusequant", "torch"

Shape = tuple[int, int]
Tell = Callable[[str], None]
Pace = Callable[[int], float]  # rows of x -> seconds
Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """One way to multiply by a weight; `bound` is None for the products that set the measure.

    `op` is ours, None where no layer can be told to take this way.
    """

    who: str
    scheme: str
    backend: str
    run: Callable[[torch.Tensor], torch.Tensor]
    dtype: torch.dtype
    error: float = 0.0
    bound: float | None = None
    auto: bool = False
    op: str | None = ""

    @property
    def name(self) -> str:
        """`int8 on onednn`."""
        return f"{self.scheme} on {self.backend}"


@dataclass
class Grid:
    """What was asked for; `refused` collects who does not take part, `cut` what was not measured.

    `peaks` is TFLOP/s of torch's product of squares by dtype: the machine's ceiling as measured.
    """

    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    seconds: float = 60.0
    shapes: Sequence[Shape] = SHAPES
    rows: Sequence[int] = ROWS
    schemes: Sequence[str] = SCHEMES
    rivals: Sequence[Rival] = RIVALS
    refused: dict[str, str] = field(default_factory=dict)
    cut: list[str] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)


def bench_grid(asked: Grid, tell: Tell = lambda line: None) -> list[Row]:
    """A row for each way, shape and number of rows; every shape has its share of the time."""
    rows: list[Row] = []
    with torch.inference_mode(), passes.at_once():
        # what is imported and compiled once does not count
        for rival in asked.rivals:
            prepared(rival, torch.zeros((64, 256), dtype=asked.dtype, device=asked.device))
        _compile(asked.device)
        asked.peaks = _peaks(asked.device)
        end = time.monotonic() + asked.seconds
        for done, shape in enumerate(asked.shapes):
            now = time.monotonic()
            until = now + max(0.0, end - now) / (len(asked.shapes) - done)
            rows += _shape(shape, until, asked, tell)
    return rows


def _shape(shape: Shape, until: float, asked: Grid, tell: Tell) -> list[Row]:
    """One weight, made once for everybody; few rows of x come first."""
    source = generator(0, f"{shape[0]}x{shape[1]}")
    weight = (torch.randn(shape, generator=source) / shape[1] ** 0.5).to(asked.device)
    x = torch.randn(max(asked.rows), shape[1], generator=source).to(asked.device)
    tell(f"{shape[0]} x {shape[1]}: quantizing")
    ways = _taking_part(weight, x, asked)
    pace = {way.name: _trial(way, x, asked.device) for way in ways}
    rows: list[Row] = []
    for count in sorted(asked.rows):
        kept = _without_hopeless(ways, count, pace, asked)
        needed = (ROUNDS + WARMUP) * sum(pace[way.name](count) for way in kept)
        if time.monotonic() + needed > until:
            left = max(0.0, until - time.monotonic())
            asked.cut.append(
                f"{shape[0]} x {shape[1]}, {count} rows: about {needed:.0f} s of {left:.0f} s left"
            )
            continue
        tell(f"{shape[0]} x {shape[1]}, {count} rows: {len(kept)} ways, about {needed:.0f} s")
        found = _measured(kept, shape, x[:count], asked)
        for row, way in zip(found, kept, strict=True):
            pace[way.name] = partial(_in_proportion, row["median_s"] / count)
        rows += found
    return rows


def _in_proportion(seconds: float, count: int) -> float:
    return seconds * count


def _trial(way: Way, x: torch.Tensor, device: torch.device) -> Pace:
    """Seconds of `way` for a number of rows, from what few and a few more take."""

    def taken(count: int) -> float:
        run = partial(way.run, x[:count].to(way.dtype))
        return time_in_turns({"": run}, 1, 0, waiting(device))[""].median_s

    cold, first = taken(TRIAL_ROWS), taken(TRIAL_ROWS)
    if min(cold, first) > SLOW_S:
        return partial(_in_proportion, first / TRIAL_ROWS)
    more = taken(4 * TRIAL_ROWS)
    each = max(0.0, more - first) / (3 * TRIAL_ROWS)
    return lambda count: first + each * count


def _without_hopeless(
    ways: Sequence[Way], count: int, pace: Mapping[str, Pace], asked: Grid
) -> list[Way]:
    """The ways that are not many times slower than torch; the others are told."""
    limit = HOPELESS * min(pace[way.name](count) for way in ways if way.who == TORCH)
    kept = [way for way in ways if way.who == TORCH or pace[way.name](count) <= limit]
    for way in ways:
        if way not in kept:
            asked.refused[way.name] = (
                f"more than {HOPELESS:g} times slower than torch with {count} rows: not timed"
            )
    return kept


def _compile(device: torch.device) -> None:
    """Have the fused passes compiled before any time counts."""
    if device.type == "cpu" and refusal("onednn") is None:
        rows = torch.randn(256, 2048).to(torch.bfloat16)
        codes, scale = ops.quantize_int8(torch.randn(2048, 2048))
        with use_backend("onednn"):
            ops.int8_linear(rows, codes, scale)


def _peaks(device: torch.device) -> dict[str, float]:
    """TFLOP/s of `F.linear` on squares, in each dtype that torch multiplies."""
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        square = torch.randn((PEAK_SIZE, PEAK_SIZE), device=device).to(dtype)
        run = partial(F.linear, square, square)
        timing = time_in_turns({"": run}, ROUNDS, WARMUP, waiting(device))[""]
        found[dtype_name(dtype)] = 2 * PEAK_SIZE**3 / min(timing.samples_s) / 1e12
    return found


def _taking_part(weight: torch.Tensor, x: torch.Tensor, asked: Grid) -> list[Way]:
    """Torch's products, then everybody whose error on a few rows is within its bound."""
    half, few = weight.to(asked.dtype), x[:TRIAL_ROWS].to(asked.dtype)
    ways = [
        Way(TORCH, BASELINE, dtype_name(dtype), _plain(weight.to(dtype)), dtype)
        for dtype in (torch.bfloat16, torch.float32)
    ]
    exact = F.linear(few.double(), half.double())
    for rival in asked.rivals:
        run = prepared(rival, half)
        if isinstance(run, str):
            asked.refused[f"{rival.scheme} on {rival.backend}"] = run
        else:
            ways += _tried(rival, run, few, exact, asked)
    trial = Bench(asked.device, asked.dtype, len(few), 60.0, asked.schemes, asked.refused)
    trial.trial_rows = TRIAL_ROWS
    for name in asked.schemes:
        for one in contenders(all_schemes()[name], half, few, trial):
            if one.backend != "reference":
                bound = all_schemes()[name].worst_error + 0.01
                ways.append(Way(OURS, name, one.backend, one.run, asked.dtype, one.error, bound,
                                one.auto, one.op))  # fmt: skip
    ways += _packed(half, few, exact, asked)
    return ways


def _plain(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: F.linear(x, weight)


def _tried(
    rival: Rival, run: Callable[[torch.Tensor], torch.Tensor], few: torch.Tensor,
    exact: torch.Tensor, asked: Grid,
) -> Iterator[Way]:  # fmt: skip
    who = f"{rival.scheme} on {rival.backend}"
    try:
        error = relative_error(exact, run(few).double())
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as why:
        asked.refused[who] = f"{type(why).__name__}: {str(why).splitlines()[0][:200]}"
        return
    if not error <= rival.bound:
        asked.refused[who] = f"wrong: its error is {error:.4f}, its bound {rival.bound}"
        return
    yield Way(rival.backend, rival.scheme, rival.backend, run, asked.dtype, error, rival.bound)


def _packed(
    weight: torch.Tensor, few: torch.Tensor, exact: torch.Tensor, asked: Grid
) -> Iterator[Way]:
    """int8 with the weight in oneDNN's order, where that runs and int8 was asked for."""
    if "int8" not in asked.schemes or weight.device.type != "cpu":
        return
    codes, scale = ops.quantize_int8(weight)
    try:
        with use_backend("onednn"):
            packed = ops.pack_int8(codes)
            error = relative_error(exact, ops.int8_linear(few, packed, scale).double())
    except NoBackend as why:
        asked.refused["int8 on onednn, packed"] = why.reasons.get("onednn", str(why))
        return
    bound = all_schemes()["int8"].worst_error + 0.01

    def run(x: torch.Tensor) -> torch.Tensor:
        return ops.int8_linear(x, packed, scale)

    yield Way(OURS, "int8", "onednn, packed", run, asked.dtype, error, bound, op=None)


def _measured(ways: Sequence[Way], shape: Shape, x: torch.Tensor, asked: Grid) -> list[Row]:
    """Everybody's time on x, in turns, each in its own dtype."""
    given = {dtype: x.to(dtype) for dtype in {way.dtype for way in ways}}
    runs: dict[str, Callable[[], object]] = {
        way.name: partial(way.run, given[way.dtype]) for way in ways
    }
    times = time_in_turns(runs, ROUNDS, WARMUP, waiting(asked.device))
    base = {way.backend: times[way.name].median_s for way in ways if way.who == TORCH}
    peak = max(asked.peaks.values())
    rows = []
    for way in ways:
        seconds = times[way.name].median_s
        tflops = 2 * shape[0] * shape[1] * len(x) / seconds / 1e12
        rows.append({
            "who": way.who, "scheme": way.scheme, "backend": way.backend, "auto": way.auto,
            "op": way.op, "n": shape[0], "k": shape[1], "count": 1, "tokens": len(x),
            "dtype": dtype_name(way.dtype), "median_s": round(seconds, 9),
            "spread": round(times[way.name].spread, 3), "tflops": round(tflops, 4),
            "over_bf16": round(base["BF16"] / seconds, 3),
            "over_fp32": round(base["F32"] / seconds, 3),
            "share_of_peak": round(tflops / peak, 3), "error": round(way.error, 5),
            "bound": way.bound,
        })  # fmt: skip
    return rows


def orders(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """{op: {class of rows: our backends, fastest first}}, over the shapes that all of them ran."""
    found: dict[tuple[str, str], dict[str, dict[tuple[int, ...], float]]] = defaultdict(dict)
    for row in rows:
        if row["who"] == OURS and row["op"]:
            backends = found[row["op"], order.row_class(row["tokens"])]
            cell = (row["n"], row["k"], row["tokens"])
            # fp8 and fp8_row may run one op: the slower of the two counts
            times = backends.setdefault(row["backend"], {})
            times[cell] = max(row["median_s"], times.get(cell, 0.0))
    made: dict[str, dict[str, tuple[str, ...]]] = {}
    for (op, rows_class), backends in found.items():
        cells = set.intersection(*(set(times) for times in backends.values()))
        totals = {name: sum(times[c] for c in cells) for name, times in backends.items()}
        if cells:
            made.setdefault(op, {})[rows_class] = tuple(sorted(totals, key=totals.__getitem__))
    return made
