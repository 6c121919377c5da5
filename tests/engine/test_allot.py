"""The knapsack: exact where an exact answer can be had, near the bound where not, never over."""

from __future__ import annotations

import itertools
import random

import pytest

from fusequant.engine.budget.allot import Option, allot, smallest, total_bytes, total_cost

Layers = list[list[Option]]


def layers_of(count: int, seed: int, unit: int = 1) -> Layers:
    """Random layers whose options are about as schemes are: half the bytes, ten times the cost."""
    source = random.Random(seed)
    made = []
    for _ in range(count):
        size, weight = source.randint(4, 60) * unit, source.lognormvariate(0, 1.5)
        made.append(
            [
                Option(round(size * share), weight * cost * source.uniform(0.5, 2))
                for share, cost in ((2, 0.0), (1, 1.0), (1.02, 0.8), (0.5, 100.0), (0.56, 70.0))
            ]
        )
    return made


def exact(layers: Layers, budget: int) -> float:
    """The least cost within the budget by dynamic programming over bytes."""
    best = {0: 0.0}
    for options in layers:
        reached: dict[int, float] = {}
        for used, cost in best.items():
            for option in options:
                at = used + option.bytes
                if at <= budget:
                    reached[at] = min(reached.get(at, float("inf")), cost + option.cost)
        best = reached
    return min(best.values())


def bound(layers: Layers, budget: int) -> float:
    """A cost that no choice can be below: the best of many Lagrange multipliers."""
    prices = [10.0 ** (power / 50) for power in range(-600, 100)]
    return max(
        sum(min(o.cost + price * o.bytes for o in options) for options in layers) - price * budget
        for price in prices
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_small_set_is_solved_nearly_as_well_as_by_dynamic_programming(
    seed: int, share: float
) -> None:
    layers = layers_of(12, seed)
    low, high = total_bytes(layers, smallest(layers)), sum(o[0].bytes for o in layers)
    budget = round(low + share * (high - low))
    chosen = allot(layers, budget)
    assert chosen is not None
    assert total_bytes(layers, chosen) <= budget
    assert total_cost(layers, chosen) <= 1.001 * exact(layers, budget)


def test_small_sets_are_solved_exactly_on_average() -> None:
    ratios = []
    for seed in range(40):
        layers = layers_of(12, 100 + seed)
        budget = round(1.1 * sum(options[1].bytes for options in layers))
        chosen = allot(layers, budget)
        assert chosen is not None
        ratios.append(total_cost(layers, chosen) / exact(layers, budget))
    assert sum(ratios) / len(ratios) < 1.0001


def test_a_large_set_is_near_what_no_choice_can_be_below() -> None:
    layers = layers_of(600, 5, unit=1_000_000)
    budget = round(0.9 * sum(options[1].bytes for options in layers))
    chosen = allot(layers, budget)
    assert chosen is not None
    assert total_bytes(layers, chosen) <= budget
    assert total_cost(layers, chosen) < 1.002 * bound(layers, budget)


@pytest.mark.parametrize("seed", range(6))
def test_every_budget_is_held_and_more_bytes_never_cost_quality(seed: int) -> None:
    layers = layers_of(5, seed)
    low, high = total_bytes(layers, smallest(layers)), sum(o[0].bytes for o in layers)
    found = [exact(layers, budget) for budget in range(low, high + 2, 7)]
    ours = [allot(layers, budget) for budget in range(low, high + 2, 7)]
    costs = [total_cost(layers, chosen) for chosen in ours if chosen is not None]
    assert len(costs) == len(found)
    assert all(cost >= best - 1e-9 for cost, best in zip(costs, found, strict=True))
    assert all(cost <= 1.001 * best + 1e-9 for cost, best in zip(costs, found, strict=True))


def test_too_few_bytes_are_no_choice_and_the_smallest_ones_fit_exactly() -> None:
    layers = layers_of(8, 1)
    least = total_bytes(layers, smallest(layers))
    assert allot(layers, least - 1) is None
    chosen = allot(layers, least)
    assert chosen is not None
    assert total_bytes(layers, chosen) == least


def test_an_option_off_the_hull_is_taken_where_only_it_fits() -> None:
    layers = [[Option(10, 100.0), Option(15, 90.0), Option(20, 0.0)]]
    assert [allot(layers, budget) for budget in (10, 15, 19, 20)] == [[0], [1], [1], [2]]


def test_one_layer_gives_what_another_needs_more() -> None:
    # by slope the first layer is served first and leaves too little for the second
    layers = [[Option(1, 10.0), Option(4, 3.0)], [Option(2, 20.0), Option(7, 9.0)]]
    chosen = allot(layers, 8)
    assert chosen is not None
    every = [c for c in itertools.product(range(2), repeat=2) if total_bytes(layers, c) <= 8]
    assert total_cost(layers, chosen) == min(total_cost(layers, c) for c in every)


def test_of_options_that_are_alike_the_first_is_taken() -> None:
    layers = [[Option(4, 1.0), Option(4, 1.0), Option(8, 1.0)]] * 3
    assert allot(layers, 100) == [0, 0, 0]
    assert allot([], 0) == []
