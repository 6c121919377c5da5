"""A model and a number of bytes in, the scheme of each layer that keeps the output nearest out.

Every scheme that a layer may get is tried on rows of its real weights, LoRAs added (`weigh`), with
inputs and sensitivities from the model's own transformer (`learn`) where there is one for it; then
the bytes are given to those layers where they buy most (`allot`). Where the source is a header
without numbers, each scheme's bound stands in for what would have been measured.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..fuse.lora import Fused
from ..insight import Insight, LayerInsight
from ..meter import Meter, Progress, silent
from ..model import Model
from ..outputs import keeps_codes
from ..plan import Budget, Choice, LoraKept, Tried, Uniform
from ..scheme_names import schemes
from ..source import Source
from .allot import allot, smallest, total_bytes
from .ways import FITS, Ways, Wish, refuse_too_small, unlimited, ways_of, why
from .weighed import LoraLeft, Weighed

WORKERS = 4  # each holds a sample and what one scheme makes of it
COPIES_OF_A_WEIGHT, COPIES_OF_A_SAMPLE = 3, 8  # in float32 at once
FIXED_BYTES = 96 << 20  # a block's activations, what the C library keeps of freed memory
PREDICTED = "each scheme's bound for normal weights: a header without numbers cannot be measured"

SizeOf = Callable[[Sequence[Choice]], int]  # the bytes of the file for these choices
Errors = Sequence[Mapping[str, Weighed]]  # by varied layer and scheme


@dataclass(frozen=True)
class Measured:
    """The error of every way to store each layer, before any bytes are given out."""

    ways: Ways
    errors: Errors
    insight: Insight
    peak_bytes: int

    def only(self, candidates: Sequence[str]) -> Measured:
        """The same for fewer schemes."""
        return replace(self, ways=self.ways.only(candidates))

    @property
    def varied(self) -> frozenset[str]:
        """The names of the layers that are decided on."""
        return frozenset(way.layer.name for way in self.ways.varied)

    def tried(self) -> dict[str, list[Tried]]:
        """{layer: its error and its bytes in every scheme that it may have}."""
        return {
            way.layer.name: [
                Tried(scheme, size, found[scheme].error, found[scheme].damage)
                for scheme, size in zip(way.schemes, way.bytes, strict=True)
            ]
            for way, found in zip(self.ways.varied, self.errors, strict=True)
        }


def within(
    source: Source,
    model: Model,
    fused: Fused,
    wish: Wish,
    size_of: SizeOf,
    progress: Progress = silent,
    measured: Measured | None = None,
    headers_only: bool = False,
) -> tuple[tuple[Choice, ...], Budget, Measured | None]:
    """(one Choice a layer, what is predicted of them, what was measured for it).

    Refuses a budget below the smallest file. Where it holds every layer unquantized there is
    nothing to measure. `measured`: for the same wish but for `max_bytes`. `headers_only`: nothing
    is read, and the choices are a guess that fits.
    """
    ways = ways_of(model, fused, wish)
    whole = ways.spread(ways.uniform("none"), [FITS] * len(ways.varied))
    size = size_of(whole)
    refuse_too_small(wish, size_of(ways.spread(smallest(ways.options()))), size)
    if size <= wish.max_bytes:
        return whole, unlimited(wish.max_bytes, size), None
    if measured is None:
        measured = (
            unmeasured(model, ways)
            if headers_only or source.kind == "spec"
            else measure(source, model, fused, wish, progress)
        )
    choices, budget = spend(measured, wish.max_bytes, size_of)
    return choices, budget, measured


def measure(
    source: Source, model: Model, fused: Fused, wish: Wish, progress: Progress = silent
) -> Measured:
    """Weigh every way; `wish.max_bytes` does not count here."""
    ways = ways_of(model, fused, wish)
    errors, insight = _weighed(source, model, fused, wish, ways, progress)
    return Measured(ways, errors, insight, _peak_bytes(model, ways))


def unmeasured(model: Model, ways: Ways) -> Measured:
    """What stands in for it while only headers are known."""
    return Measured(ways, _predicted(ways), Insight({}, PREDICTED), _peak_bytes(model, ways))


def spend(measured: Measured, max_bytes: int, size_of: SizeOf) -> tuple[tuple[Choice, ...], Budget]:
    """(one Choice a layer in the model's order, what is predicted of them) within `max_bytes`."""
    ways, errors, insight = measured.ways, measured.errors, measured.insight
    options = ways.options(errors)
    least = smallest(options)
    room = max_bytes - size_of(ways.spread(least)) + total_bytes(options, least)
    chosen = allot(options, room) or least
    while (over := size_of(ways.spread(chosen)) - max_bytes) > 0:
        room -= over  # the lines of the header are known by about a byte each
        chosen = allot(options, room) or least
    picked = _picked(ways, errors, chosen)
    told = [why(way, found, i) for way, found, i in zip(ways.varied, errors, chosen, strict=True)]
    known = any(layer.sensitivity is not None for layer in insight.layers.values())
    budget = Budget(
        max_bytes=max_bytes,
        how=insight.how,
        error=_error(picked) if known else None,
        uniform=tuple(_uniform(ways, errors, size_of, known)),
        loras=tuple(_loras(picked)),
        peak_bytes=measured.peak_bytes,
    )
    return ways.spread(chosen, told), budget


def _predicted(ways: Ways) -> list[dict[str, Weighed]]:
    """From the bound of each scheme; a layer that stays as it is stored has no error."""
    found = []
    for way in ways.varied:
        errors = {name: schemes()[name].worst_error for name in way.schemes}
        if not way.touched and way.choices[-1].dtype == way.layer.dtype:
            errors["none"] = 0.0
        found.append({name: Weighed(error, error**2) for name, error in errors.items()})
    return found


def _weighed(
    source: Source, model: Model, fused: Fused, wish: Wish, ways: Ways, progress: Progress
) -> tuple[list[dict[str, Weighed]], Insight]:
    """(the error of every way to store each layer, what is known of the layers)."""
    from ..workers import side_by_side, single_threaded_torch, worker_count
    from .learn import learn, learned_bytes
    from .weigh import sample_bytes, sample_of, weigh

    sizes = [sample_bytes(way.layer) for way in ways.varied]
    meter = Meter(progress, learned_bytes(model) + sum(sizes))
    insight = learn(source, model, fused, wish.device, wish.inputs, meter.add)
    found: list[dict[str, Weighed]] = [{} for _ in ways.varied]

    def task(i: int) -> None:
        way = ways.varied[i]
        kept = next((c.scheme for c in way.choices if keeps_codes(c, way.touched)), None)
        found[i] = weigh(
            way.layer.name,
            sample_of(way.layer, source, fused),
            [schemes()[name] for name in way.schemes],
            insight.layers.get(way.layer.name, LayerInsight()),
            way.choices[-1].dtype,
            wish.rounding,
            kept,
        )
        meter.add(sizes[i])

    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    with single_threaded_torch():
        tasks = [partial(task, i) for i in order]
        side_by_side(tasks, min(WORKERS, worker_count("cpu")), threading.Event())
    return found, insight


def _peak_bytes(model: Model, ways: Ways) -> int:
    """The private memory of measuring: one whole weight and its product, or the hungriest samples.

    Copies counted on models of 0.1 to 4 GB.
    """
    from .weigh import sample_bytes

    largest = max((layer.elements for layer in model.layers), default=0)
    samples = sorted((2 * sample_bytes(way.layer) for way in ways.varied), reverse=True)
    return max(
        FIXED_BYTES + COPIES_OF_A_WEIGHT * 4 * largest,
        FIXED_BYTES + COPIES_OF_A_SAMPLE * sum(samples[:WORKERS]),
    )


def _picked(ways: Ways, errors: Errors, chosen: Sequence[int]) -> list[Weighed]:
    """What the chosen way does to each varied layer."""
    every = zip(ways.varied, errors, chosen, strict=True)
    return [found[way.schemes[i]] for way, found, i in every]


def _error(picked: Iterable[Weighed]) -> float:
    """The relative error of the model's output: errors of layers have nothing to do with another.

    LoRA damage is part of the cost, not of the error.
    """
    return math.sqrt(sum(one.moved for one in picked))


def _uniform(ways: Ways, errors: Errors, size_of: SizeOf, known: bool) -> Iterable[Uniform]:
    """What the file would be with one scheme for all layers."""
    names = dict.fromkeys(name for way in ways.varied for name in way.schemes if name != "none")
    for scheme in names:
        chosen = ways.uniform(scheme)
        error = _error(_picked(ways, errors, chosen)) if known else None
        yield Uniform(scheme, size_of(ways.spread(chosen)), error)


def _loras(picked: Iterable[Weighed]) -> Iterable[LoraKept]:
    """What is left of each LoRA in all layers, each layer by the energy of its delta."""
    by_file: dict[str, list[LoraLeft]] = {}
    for one in picked:
        for path, left in one.loras:
            by_file.setdefault(path, []).append(left)
    for path, found in by_file.items():
        total = sum(left.energy for left in found) or 1.0
        yield LoraKept(
            path,
            sum(left.energy * left.norm_ratio for left in found) / total,
            sum(left.energy * left.cosine for left in found) / total,
        )
