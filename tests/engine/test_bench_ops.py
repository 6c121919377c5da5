"""The op benchmark: a row for each contender, totals by layers, the budget, who cannot run."""

from __future__ import annotations

import pytest
import torch

from fusequant.engine.bench.ops import Bench, bench_ops, shapes_of, speed_chart, totals
from fusequant.engine.errors import Refused
from fusequant.kernels import ops, registry

CPU = torch.device("cpu")


def test_the_heaviest_shapes_are_counted() -> None:
    matrices = [(64, 64)] * 2 + [(256, 64)] * 3 + [(8, 8)] + [(64, 256)] * 2
    assert shapes_of(matrices) == [(256, 64, 3), (64, 256, 2), (64, 64, 2)]


def test_rows_and_totals() -> None:
    asked = Bench(CPU, torch.float32, 64, 5.0, ["int8", "fp8"])
    rows = bench_ops([(64, 128, 3), (128, 64, 1)], asked)
    assert {row["scheme"] for row in rows} == {"none", "int8", "fp8"}
    assert all(row["median_s"] > 0 and row["tokens"] <= 64 for row in rows)
    assert all(row["error"] < 0.06 for row in rows)
    found = totals(rows)
    base = next(row for row in found if row["scheme"] == "none")
    expected = sum(row["count"] * row["median_s"] for row in rows if row["scheme"] == "none")
    assert base["seconds"] == pytest.approx(expected) and base["ratio"] == 1.0
    assert [row["seconds"] for row in found] == sorted(row["seconds"] for row in found)
    assert sum(row["auto"] for row in found) == 3  # one backend a scheme, and the baseline
    assert not isinstance(speed_chart(rows), str)


def test_who_cannot_run_is_told_with_the_reason() -> None:
    asked = Bench(CPU, torch.float32, 16, 5.0, ["fp8_block128", "int8_convrot"])
    bench_ops([(64, 24, 1)], asked)
    assert "no multiple of 16" in asked.refused["int8_convrot"]


def test_tokens_are_cut_to_the_budget() -> None:
    asked = Bench(CPU, torch.float32, 65536, 1e-4, ["int8"])
    rows = bench_ops([(64, 64, 1)], asked)
    assert {row["tokens"] for row in rows} == {64}


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(Refused, match="no-matrix"):
        bench_ops([], Bench(CPU, torch.float32, 64))


def test_the_registry_notes_what_ran() -> None:
    with registry.noted() as found:
        ops.amax(torch.ones(3))
    ops.amax(torch.ones(3))
    assert len(found) == 1 and found[0][0] == "amax"
