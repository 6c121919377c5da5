"""`bench ops` and `backends` as a user meets them: rows, cuts, the order that is kept and told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusequant.cli.main import main
from fusequant.engine.advise.measured import measured_from
from fusequant.engine.bench import grid
from fusequant.kernels import order


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A grid that takes no time; the user's file is in the test's own folder."""
    monkeypatch.setattr(grid, "PEAK_SIZE", 64)
    monkeypatch.setattr(grid, "HOPELESS", 1e9)
    monkeypatch.setattr(grid, "_compile", lambda device: None)
    monkeypatch.setattr(grid, "ROWS", (32,))
    shapes: Any = ((64, 128),)
    monkeypatch.setattr(grid.Grid.__init__, "__defaults__", _with(shapes))
    path = tmp_path / "order.json"
    monkeypatch.setenv(order.ENVIRONMENT, str(path))
    order.forget()
    yield path
    monkeypatch.undo()
    order.forget()


def _with(shapes: Any) -> tuple[Any, ...]:
    """The defaults of a Grid with other shapes and no rivals."""
    found = list(grid.Grid.__init__.__defaults__ or ())
    return tuple({grid.SHAPES: shapes, grid.RIVALS: ()}.get(v, v) if isinstance(v, tuple) else v
                 for v in found)  # fmt: skip


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    code = main([str(word) for word in (*words, "--json")])
    return code, json.loads(capsys.readouterr().out)


def test_rows_settings_and_the_saved_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = ask(capsys, "bench", "ops", "--device", "cpu", "--scheme", "int8",
                       "--save", tmp_path)  # fmt: skip
    assert code == 0 and {row["scheme"] for row in answer["rows"]} == {"none", "int8"}
    assert {"not_run", "cut", "peak_tflops"} <= set(answer["settings"])
    saved = json.loads(Path(answer["saved"]).read_text())
    assert saved["rows"] == answer["rows"] and saved["hardware"]["cpu"]
    picks = measured_from(answer["saved"]).picks
    assert set(picks) == {"none", "int8"} and picks["int8"].backend != "onednn, packed"


def test_what_there_is_no_time_for_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    _, answer = ask(capsys, "bench", "ops", "--seconds", "0.000001", "--scheme", "int8")
    assert answer["rows"] == [] and "64 x 128, 32 rows" in answer["settings"]["cut"][0]
    assert main(["bench", "ops", "--seconds", "0.000001", "--scheme", "int8"]) == 0
    told = capsys.readouterr()
    assert "nothing was measured" in told.out and "cut: 64 x 128" in told.err


def test_update_keeps_the_order_and_backends_tells_it(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, before = ask(capsys, "backends")
    assert before["orders"][0]["user_file"] == str(small)
    _, answer = ask(capsys, "bench", "ops", "--scheme", "int8", "--update")
    assert answer["settings"]["updated"] == str(small)
    ranked = json.loads(small.read_text())["machines"][before["orders"][0]["device"]]["order"]
    assert set(ranked["int8_linear"]) == {"few", "some"}
    assert "torch_native" in ranked["int8_linear"]["some"]
    _, after = ask(capsys, "backends")
    assert after["orders"][0]["read"]["order"] == ranked
    main(["backends"])
    assert f"({small}): int8_linear" in capsys.readouterr().out


def test_update_is_not_for_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = ask(capsys, "bench", "ops", "--model", "flux1-dev", "--update")
    assert code == 2 and answer["error"]["kind"] == "update-with-model"


def test_the_table_has_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ops", "--scheme", "int8"]) == 0
    told = capsys.readouterr().out
    assert "64 x 128, 32 rows" in told and "none on F32" in told and "int8 on torch_native" in told
