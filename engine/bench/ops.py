"""The shapes of a model's layers and a token count in, the time of every scheme and backend out.

For a weight (n, k) and x (tokens, k) each contender computes x W.T with the quantizing of x
included; the unquantized product in the same dtype is the baseline. Where all of it would take too
long the tokens are cut down, and the rows say so.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling

from ...kernels import registry
from ..errors import Refused
from ..measure.chart import bars_figure
from ..measure.errors import relative_error
from ..measure.synthetic import generator
from ..measure.timing import Timing, time_in_turns
from ..rows import all_schemes
from ..scheme import Scheme
from ..tensors import dtype_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINE = "none"
TOKENS = (65536, 16384, 8192, 4096, 2048, 1024, 512, 256, 128, 64)
MOST_SHAPES = 3
ROUNDS = 3
# FLUX and Qwen-Image are 3072 wide, Wan 14B 5120: what is measured where no model is named
USUAL = ((9216, 3072, 1), (12288, 3072, 1), (3072, 12288, 1), (5120, 5120, 1), (13824, 5120, 1))

Shape = tuple[int, int, int]  # n, k, how many layers have it
Tell = Callable[[str], None]
Row = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A scheme on a backend, for one shape: `run(x)`; `auto` is what the registry would choose.

    `error` is against the product with the weight that was quantized, `op` what was run last.
    """

    scheme: str
    backend: str
    run: Callable[[torch.Tensor], torch.Tensor]
    auto: bool = False
    error: float = 0.0
    op: str = ""

    @property
    def name(self) -> str:
        """`int8 on kitchen`."""
        return f"{self.scheme} on {self.backend}"


@dataclass
class Bench:
    """What was asked for; `refused` collects who cannot run here, and why."""

    device: torch.device
    dtype: torch.dtype
    tokens: int
    budget_s: float = 8.0
    schemes: Sequence[str] = ()
    refused: dict[str, str] = field(default_factory=dict)
    trial_rows: int = 32

    @property
    def names(self) -> list[str]:
        """The schemes that take part."""
        return [name for name in self.schemes or all_schemes() if name != BASELINE]


def shapes_of(matrices: Iterable[tuple[int, int]]) -> list[Shape]:
    """The shapes that most of the arithmetic is in, at most MOST_SHAPES, the heaviest first."""
    counts = Counter(matrices)
    heaviest = sorted(counts, key=lambda shape: -shape[0] * shape[1] * counts[shape])
    return [(n, k, counts[n, k]) for n, k in heaviest[:MOST_SHAPES]]


def bench_ops(shapes: Sequence[Shape], asked: Bench, tell: Tell = lambda line: None) -> list[Row]:
    """A row for each contender and shape, as the result file has them."""
    if not shapes:
        raise Refused(
            "no-matrix",
            found="a model without a layer that could be quantized",
            expected="Linear layers",
            fix="give a diffusion model",
        )
    with torch.inference_mode():
        tokens = _fitting(shapes, asked)
        rows: list[Row] = []
        for shape in shapes:
            tell(f"{shape[0]} x {shape[1]}, {shape[2]} layers, {tokens} tokens")
            rows += _measure(shape, tokens, asked)
    return rows


def totals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same over all shapes, weighted by their number of layers, fastest first.

    `ratio` is how many times faster than the unquantized product of the same run.
    """
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    shapes = {(row["n"], row["k"]) for row in rows}
    for row in rows:
        key = (row["scheme"], row["backend"])
        found = sums.setdefault(key, {"scheme": key[0], "backend": key[1], "auto": row["auto"],
                                      "seconds": 0.0, "shapes": 0, "error": 0.0})  # fmt: skip
        found["seconds"] += row["count"] * row["median_s"]
        found["shapes"] += 1
        found["error"] = max(found["error"], row["error"])
    whole = [found for found in sums.values() if found["shapes"] == len(shapes)]
    base = sums[BASELINE, "torch"]["seconds"]
    for found in whole:
        found["ratio"] = base / found["seconds"]
    return sorted(whole, key=lambda found: found["seconds"])


def _fitting(shapes: Sequence[Shape], asked: Bench) -> int:
    """The most tokens, up to those asked for, with which the whole run fits the budget.

    The baseline's own speed on few tokens stands for everybody's; twice its time is allowed for.
    """
    n, k, _ = shapes[0]
    weight = torch.randn(n, k, device=asked.device, dtype=asked.dtype)
    x = torch.randn(64, k, device=asked.device, dtype=asked.dtype)
    timing = time_in_turns({"": lambda: F.linear(x, weight)}, 2, 1, waiting(asked.device))[""]
    calls = (ROUNDS + 1) * (2 * len(asked.names) + 1)
    each_s = 2 * calls * timing.median_s / 64 * sum(a * b for a, b, _ in shapes) / (n * k)
    return next((t for t in _down_from(asked.tokens) if t * each_s <= asked.budget_s), 64)


def _down_from(tokens: int) -> Iterator[int]:
    """The tokens asked for, then the usual counts below them."""
    yield tokens
    yield from (count for count in TOKENS if count < tokens)


def waiting(device: torch.device) -> Callable[[], object]:
    """What waits for the device's work."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


def _measure(shape: Shape, tokens: int, asked: Bench) -> list[dict[str, Any]]:
    """Every contender of one shape, in turns."""
    n, k, _ = shape
    source = generator(0, f"{n}x{k}")
    weight = (torch.randn(n, k, generator=source) / k**0.5).to(asked.device, asked.dtype)
    x = torch.randn(tokens, k, generator=source).to(asked.device, asked.dtype)
    running = [Contender(BASELINE, "torch", lambda y: F.linear(y, weight), True)]
    for name in asked.names:
        running += contenders(all_schemes()[name], weight, x, asked)
    runs: dict[str, Callable[[], object]] = {c.name: partial(c.run, x) for c in running}
    times = time_in_turns(runs, ROUNDS, 1, waiting(asked.device))
    base = times[running[0].name].median_s
    return [_row(c, shape, tokens, times[c.name], base) for c in running]


def contenders(
    scheme: Scheme, weight: torch.Tensor, x: torch.Tensor, asked: Bench
) -> Iterator[Contender]:
    """The scheme on each backend that takes this call; a reason for every other one."""
    n, k = weight.shape
    refusal = scheme.refuses(n, k)
    if refusal is not None:
        asked.refused[scheme.name] = refusal
        return
    settings = {**scheme.config(n, k), **scheme.settings}
    tensors = scheme.quantize(weight, None, dtype_name(weight.dtype))
    few, own = x[: asked.trial_rows], _chosen(scheme, tensors, settings, x)
    exact = F.linear(few.float(), weight.float())
    stored = F.linear(few.double(), scheme.dequantize(tensors, settings).double()[:n, :k])
    for name in registry.backends():
        run, who = _bound(scheme, tensors, settings, name), f"{scheme.name} on {name}"
        try:
            with registry.noted() as ops:
                found, seconds = _timed(run, few)
            if seconds * len(x) / len(few) > asked.budget_s:  # or it was built in its first call
                _, seconds = _timed(run, few)
        except registry.NoBackend as why:
            reason = why.reasons.get(name, str(why))
            if reason != f"has no {why.op}":  # what it never claimed is no refusal
                asked.refused[who] = reason
            continue
        except (NotImplementedError, RuntimeError) as why:
            asked.refused[who] = str(why).splitlines()[0][:300]
            continue
        off, bound = relative_error(stored, found.double()), bound_of(name, ops[-1][0])
        if not off <= bound:  # NaN is off as well
            asked.refused[who] = f"wrong: its error is {off:.4f}, its bound {bound}"
            continue
        if seconds * len(x) / len(few) > asked.budget_s:
            asked.refused[who] = f"{seconds:.2f} s for {len(few)} tokens"
            continue
        error = relative_error(exact, found.float())
        yield Contender(scheme.name, name, run, name == own, error, ops[-1][0])


def _timed(
    run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> tuple[torch.Tensor, float]:  # fmt: skip
    started = time.perf_counter()
    result = run(x)
    return result, time.perf_counter() - started


def bound_of(backend: str, op: str) -> float:
    """The error that a backend allows itself; twice that for a handful of rows, which scatters."""
    claims = registry.backends()[backend].claims
    return 2 * max((claim.error or 0.0 for claim in claims if claim.op == op), default=0.0)


def _bound(
    scheme: Scheme, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, object], name: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(x: torch.Tensor) -> torch.Tensor:
        with registry.use_backend(name):
            return scheme.linear(x, tensors, settings, None)

    return run


def _chosen(
    scheme: Scheme, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, object],
    x: torch.Tensor,
) -> str | None:  # fmt: skip
    """The backend that the registry takes by itself: what the scheme's last op runs on."""
    with registry.noted() as ops:
        scheme.linear(x[:32], tensors, settings, None)
    return ops[-1][1] if ops else None


def _row(
    who: Contender, shape: Shape, tokens: int, timing: Timing, base_s: float
) -> dict[str, Any]:
    """A row of the result file. Seconds of one call; TFLOP/s count the plain product."""
    n, k, count = shape
    return {
        "scheme": who.scheme, "backend": who.backend, "auto": who.auto, "n": n, "k": k,
        "count": count, "tokens": tokens, "median_s": round(timing.median_s, 6),
        "spread": round(timing.spread, 3),
        "tflops": round(2 * n * k * tokens / timing.median_s / 1e12, 3),
        "ratio": round(base_s / timing.median_s, 3), "error": round(who.error, 5),
    }  # fmt: skip


def speed_chart(rows: Sequence[Mapping[str, Any]]) -> Figure | str:
    """How many times as fast as the unquantized product each contender is; or why no chart."""
    return bars_figure(
        "Speed of the layers, quantizing of activations included",
        [(f"{t['scheme']} on {t['backend']}", {"": t["ratio"]}) for t in totals(rows)],
        unit="times as fast as the unquantized product",
        note=f"{rows[0]['tokens']} tokens; all measured shapes, by their number of layers",
    )
