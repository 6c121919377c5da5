"""`bench ops` without a model: everybody in one run, bounds first, cuts told, an order made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fusequant.engine.bench import grid, ops, rivals
from fusequant.engine.bench.grid import Grid, bench_grid, orders
from fusequant.engine.bench.rivals import Rival

Tensor = torch.Tensor
CPU = torch.device("cpu")


def small(**more: Any) -> Grid:
    return Grid(CPU, seconds=30.0, shapes=((64, 128), (128, 256)), rows=(32, 16),
                **{"schemes": ("int8", "fp8_row"), "rivals": (), **more})  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "PEAK_SIZE", 64)
    monkeypatch.setattr(grid, "HOPELESS", 1e9)
    monkeypatch.setattr(grid, "_compile", lambda device: None)


def test_every_way_has_a_row_for_every_cell() -> None:
    asked = small(rivals=(Rival("int8", "ComfyUI", rivals._core("TensorWiseINT8Layout",
                                                              per_channel=True)),))  # fmt: skip
    pytest.importorskip("comfy_kitchen")
    rows = bench_grid(asked)
    assert not asked.cut and set(asked.peaks) == {"BF16", "F32"}
    cells = {(row["n"], row["k"], row["tokens"]) for row in rows}
    assert cells == {(n, k, m) for n, k in asked.shapes for m in (16, 32)}
    for cell in cells:
        here = [row for row in rows if (row["n"], row["k"], row["tokens"]) == cell]
        names = {(row["scheme"], row["backend"]) for row in here}
        assert {("none", "BF16"), ("none", "F32"), ("int8", "ComfyUI"), ("int8", "torch_native"),
                ("fp8_row", "torch_native")} <= names  # fmt: skip
        plain = next(row for row in here if row["backend"] == "BF16")
        assert plain["over_bf16"] == 1.0
        for row in here:
            assert row["median_s"] > 0 and (row["bound"] is None or row["error"] <= row["bound"])
            assert row["over_bf16"] == pytest.approx(
                plain["median_s"] / row["median_s"], rel=0.01, abs=0.01
            )
    assert {row["who"] for row in rows} == {"torch", "ComfyUI", "fusequant"}
    assert sum(row["auto"] for row in rows) == 2 * len(cells)


def off_by(factor: float) -> Callable[[Tensor], Callable[[Tensor], Tensor]]:
    return lambda weight: lambda x: torch.nn.functional.linear(x, weight) * factor


def missing(weight: Tensor) -> Callable[[Tensor], Tensor]:
    raise ImportError("No module named 'nowhere'")


def test_who_is_wrong_or_missing_is_told_and_not_timed() -> None:
    asked = small(rivals=(
        Rival("int8", "right", off_by(1.01)), Rival("int8", "wrong", off_by(1.2)),
        Rival("int8", "nan", off_by(float("nan"))), Rival("int8", "absent", missing),
    ))  # fmt: skip
    found = {row["backend"] for row in bench_grid(asked)}
    assert "right" in found and not found & {"wrong", "nan", "absent"}
    assert asked.refused["int8 on wrong"].startswith("wrong: its error is 0.2")
    assert asked.refused["int8 on wrong"].endswith("its bound 0.05")
    assert asked.refused["int8 on nan"].startswith("wrong: its error is nan")
    assert "nowhere" in asked.refused["int8 on absent"]


def test_a_backend_of_ours_outside_its_bound_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "bound_of", lambda backend, op: 0.0)
    asked = small()
    assert {row["who"] for row in bench_grid(asked)} <= {"torch", "fusequant"}
    assert asked.refused["int8 on torch_native"].startswith("wrong: its error is")


def test_the_time_cuts_cells_and_says_so() -> None:
    asked = small()
    asked.seconds = 0.0
    assert bench_grid(asked) == []
    assert len(asked.cut) == 4 and asked.cut[0].startswith("64 x 128, 16 rows: about ")


def test_who_is_many_times_slower_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "HOPELESS", 1e-9)
    asked = small()
    assert {row["who"] for row in bench_grid(asked)} == {"torch"}
    assert "times slower than torch" in asked.refused["int8 on torch_native"]


def row(backend: str, seconds: float, **more: Any) -> dict[str, Any]:
    return {"who": "fusequant", "op": "int8_linear", "backend": backend, "median_s": seconds,
            "n": 8, "k": 8, "tokens": 1024, **more}  # fmt: skip


def test_orders_rank_by_the_shapes_that_all_have_run() -> None:
    rows = [
        row("b", 1.0), row("a", 2.0), row("a", 0.1, n=9),  # b has not run n = 9
        row("a", 1.0, tokens=4), row("b", 3.0, tokens=4),
        row("c", 0.1, who="torchao"), row("onednn, packed", 0.1, op=None),
    ]  # fmt: skip
    assert orders(rows) == {"int8_linear": {"many": ("b", "a"), "few": ("a", "b")}}


@pytest.mark.parametrize("rival", rivals.RIVALS, ids=lambda r: f"{r.scheme}-{r.backend}")
def test_rivals_keep_their_bound_where_they_are_installed(rival: Rival) -> None:
    weight, x = torch.randn(64, 256).bfloat16() / 16, torch.randn(8, 256).bfloat16()
    with torch.inference_mode():
        run = rivals.prepared(rival, weight)
        if isinstance(run, str):
            pytest.skip(run)
        want = x.double() @ weight.double().T
        assert (run(x).double() - want).norm() <= rival.bound * want.norm()
