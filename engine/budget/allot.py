"""What each layer could be stored as and a number of bytes in, the best choice for all layers out.

A multiple-choice knapsack: one option a layer, the bytes within the budget, the sum of the costs as
small as possible. First the steps with the largest gain for a byte, along each layer's convex
hull (what a Lagrange multiplier would choose); then what these leave on the table is repaired:
single layers that can still be improved, and one layer improved at the expense of another. Where
the layers are few enough that single ones count, dynamic programming over bins of bytes is tried
too, and the cheaper of the two answers taken.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

STATES = 20_000  # of the dynamic programming in all layers together
FEWEST_BINS = 256  # below that it is no better than the hull
EXCHANGES_TRIED = 256  # of the steps that do not fit, the most rewarding, in each round of repair


@dataclass(frozen=True)
class Option:
    """One way to store a layer: its bytes and what it costs in quality."""

    bytes: int
    cost: float


@dataclass(frozen=True)
class _Step:
    """Layer `layer` from option `before` to option `after`: more bytes, less cost."""

    layer: int
    before: int
    after: int
    bytes: int
    gain: float


@dataclass(frozen=True)
class _State:
    """The first layers stored in some way: what it costs, takes, and how it came about."""

    cost: float
    bytes: int
    before: _State | None = None
    option: int = -1

    def path(self) -> list[int]:
        """The option of each layer."""
        found, state = [], self
        while state.before is not None:
            found.append(state.option)
            state = state.before
        return found[::-1]


def smallest(layers: Sequence[Sequence[Option]]) -> list[int]:
    """The option with the fewest bytes of each layer; among equals the one that costs least."""
    return [min(range(len(x)), key=lambda i: (x[i].bytes, x[i].cost)) for x in layers]


def total_bytes(layers: Sequence[Sequence[Option]], chosen: Sequence[int]) -> int:
    """The bytes of a choice."""
    return sum(options[i].bytes for options, i in zip(layers, chosen, strict=True))


def total_cost(layers: Sequence[Sequence[Option]], chosen: Sequence[int]) -> float:
    """The cost of a choice."""
    return sum(options[i].cost for options, i in zip(layers, chosen, strict=True))


def allot(layers: Sequence[Sequence[Option]], budget: int) -> list[int] | None:
    """The index of the option for each layer; None where even the smallest do not fit.

    Of options that are alike the first is taken, so the order says what is preferred.
    """
    least = smallest(layers)
    if total_bytes(layers, least) > budget:
        return None
    tries = [_along_hulls(layers, least, budget), _in_bins(layers, budget)]
    found = [chosen for chosen in tries if chosen is not None]
    for chosen in found:
        _repair(layers, chosen, budget - total_bytes(layers, chosen))
    return min(found, key=lambda chosen: total_cost(layers, chosen))


def _along_hulls(
    layers: Sequence[Sequence[Option]], least: Sequence[int], budget: int
) -> list[int]:
    """From the smallest options on, every step that fits, the most rewarding first."""
    chosen, room = list(least), budget - total_bytes(layers, least)
    stuck: set[int] = set()
    for step in _steps(layers):
        if step.layer in stuck:
            continue
        if step.bytes > room:
            stuck.add(step.layer)  # its later steps start from this one
            continue
        chosen[step.layer] = step.after
        room -= step.bytes
    return chosen


def _in_bins(layers: Sequence[Sequence[Option]], budget: int) -> list[int] | None:
    """The cheapest choice that dynamic programming finds with one state a bin; None: too many
    layers, or no state reached the end. Exact where the bins are as fine as the sizes.
    """
    bins = STATES // max(1, len(layers))
    if bins < FEWEST_BINS:
        return None
    left = [0] * (len(layers) + 1)  # what the layers from here on need at least
    for i in reversed(range(len(layers))):
        left[i] = left[i + 1] + min(option.bytes for option in layers[i])
    width = max(1, -(-(budget - left[0] + 1) // bins))
    states = [_State(0.0, 0)]
    for i, options in enumerate(layers):
        reached: dict[int, _State] = {}
        for state in states:
            for index, option in enumerate(options):
                cost, used = state.cost + option.cost, state.bytes + option.bytes
                spare = budget - used - left[i + 1]
                if spare < 0:
                    continue
                known = reached.get(spare // width)
                if known is None or (cost, used) < (known.cost, known.bytes):
                    reached[spare // width] = _State(cost, used, state, index)
        states = list(reached.values())
    if not states:
        return None
    return min(states, key=lambda state: (state.cost, state.bytes)).path()


def _steps(layers: Sequence[Sequence[Option]]) -> list[_Step]:
    """Every step along every hull, the most rewarding for a byte first."""
    steps = []
    for layer, options in enumerate(layers):
        hull = _hull(options)
        for before, after in itertools.pairwise(hull):
            more = options[after].bytes - options[before].bytes
            gain = options[before].cost - options[after].cost
            steps.append(_Step(layer, before, after, more, gain))
    # slopes fall along a hull, so the steps of one layer stay in their order
    return sorted(steps, key=lambda step: (-step.gain / step.bytes, step.layer, step.bytes))


def _hull(options: Sequence[Option]) -> list[int]:
    """The lower convex hull of (bytes, cost): from the smallest option on, ever cheaper."""
    order = sorted(range(len(options)), key=lambda i: (options[i].bytes, options[i].cost, i))
    hull: list[int] = []
    for i in order:
        if hull and options[i].cost >= options[hull[-1]].cost:
            continue
        while len(hull) > 1 and _slope(options, hull[-2], hull[-1]) <= _slope(options, hull[-1], i):
            hull.pop()
        hull.append(i)
    return hull


def _slope(options: Sequence[Option], before: int, after: int) -> float:
    """Gain for a byte."""
    more = options[after].bytes - options[before].bytes
    return (options[before].cost - options[after].cost) / more


def _repair(layers: Sequence[Sequence[Option]], chosen: list[int], room: int) -> None:
    """Improve `chosen` in place until neither a move nor an exchange lowers the cost."""
    while True:
        moves = _moves(layers, chosen)
        better = [move for move in moves if move.bytes <= room and move.gain > 0]
        if better:
            best = max(better, key=lambda move: move.gain)
            chosen[best.layer] = best.after
            room -= best.bytes
            continue
        pair = _exchange(moves, room)
        if pair is None:
            return
        for move in pair:
            chosen[move.layer] = move.after
            room -= move.bytes


def _moves(layers: Sequence[Sequence[Option]], chosen: Sequence[int]) -> list[_Step]:
    """Every change of one layer; `gain` is below 0 where it gets worse."""
    found = []
    for layer, (options, now) in enumerate(zip(layers, chosen, strict=True)):
        for other, option in enumerate(options):
            more = option.bytes - options[now].bytes
            gain = options[now].cost - option.cost
            if other != now and (more < 0 or gain > 0):
                found.append(_Step(layer, now, other, more, gain))
    return found


def _exchange(moves: Sequence[_Step], room: int) -> tuple[_Step, _Step] | None:
    """The pair of moves of two layers that gains most and fits in `room`, or None."""
    givers = sorted((move for move in moves if move.bytes < 0), key=lambda move: -move.bytes)
    freed = [-move.bytes for move in givers]
    cheapest = _cheapest_from(givers)
    takers = sorted((move for move in moves if move.bytes > room), key=lambda move: -move.gain)
    best, found = 0.0, None
    for taker in takers[:EXCHANGES_TRIED]:
        first = bisect_left(freed, taker.bytes - room)  # givers from here on free enough
        for giver in cheapest[first]:
            if giver.layer != taker.layer and taker.gain + giver.gain > best:
                best, found = taker.gain + giver.gain, (taker, giver)
    return found


def _cheapest_from(givers: Sequence[_Step]) -> list[list[_Step]]:
    """For each i, the two moves of givers[i:], of different layers, that lose least; [] at the end.

    Two, because the one of a taker's own layer is no help to it.
    """
    cheapest: list[list[_Step]] = [[]]
    for giver in reversed(givers):
        by_layer: dict[int, _Step] = {}
        for move in sorted((giver, *cheapest[-1]), key=lambda move: -move.gain):
            by_layer.setdefault(move.layer, move)
        cheapest.append(list(by_layer.values())[:2])
    return cheapest[::-1]
