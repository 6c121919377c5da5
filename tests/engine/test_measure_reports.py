"""Timing, private memory, charts, tables, result files and the copies a benchmark needs."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusequant.engine.errors import Refused
from fusequant.engine.measure import disk
from fusequant.engine.measure.chart import bars
from fusequant.engine.measure.hardware import hardware
from fusequant.engine.measure.results import Result, read_result, write_result
from fusequant.engine.measure.table import markdown_table, text_table
from fusequant.engine.measure.timing import PrivatePeak, Timing, private_bytes, time_in_turns

MIB = 1 << 20
needs_private = pytest.mark.skipif(
    private_bytes() is None, reason="private memory is not told here"
)


@needs_private
def test_the_peak_sees_an_allocation_that_is_gone_at_the_end() -> None:
    with PrivatePeak() as peak:
        block = bytearray(b"\1") * (200 * MIB)
        time.sleep(0.1)
        del block
    assert peak.over_baseline_bytes is not None
    assert 195 * MIB < peak.over_baseline_bytes < 260 * MIB


@needs_private
@pytest.mark.parametrize("access", [mmap.ACCESS_READ, mmap.ACCESS_COPY])
def test_the_peak_does_not_see_a_mapped_file_that_is_only_read(tmp_path: Path, access: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(200 * MIB))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=access) as view:
        with PrivatePeak() as peak:
            assert sum(view[i] for i in range(0, 200 * MIB, 4096)) == 0
            time.sleep(0.1)
        assert peak.over_baseline_bytes is not None
        assert peak.over_baseline_bytes < 16 * MIB


@needs_private
def test_the_peak_sees_copy_on_write_pages_once_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(50 * MIB))
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view,
        PrivatePeak() as peak,
    ):
        for i in range(0, 50 * MIB, 4096):
            view[i] = 1
    assert peak.over_baseline_bytes is not None
    assert peak.over_baseline_bytes > 45 * MIB


@needs_private
def test_the_peak_can_watch_another_process_until_it_ends() -> None:
    code = "import time; x = bytearray(b'1') * (100 << 20); time.sleep(0.3)"
    with (
        subprocess.Popen([sys.executable, "-c", code]) as process,
        PrivatePeak(process.pid) as peak,
    ):
        process.wait()
    assert peak.peak_bytes is not None
    assert peak.peak_bytes > 95 * MIB


def test_functions_take_turns_and_warm_up_is_not_counted() -> None:
    calls = []
    times = time_in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1
    )
    assert "".join(calls) == "abbaabba"
    assert {name: len(timing.samples_s) for name, timing in times.items()} == {"a": 3, "b": 3}


def test_median_and_spread() -> None:
    timing = Timing((1.0, 2.0, 4.0))
    assert timing.median_s == 2.0
    assert timing.spread == 1.5


def test_waiting_for_started_work_is_part_of_the_time() -> None:
    times = time_in_turns({"a": lambda: None}, rounds=1, synchronize=lambda: time.sleep(0.02))
    assert times["a"].median_s >= 0.02


def test_a_chart_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "chart.png"
    rows = [
        ("ours", {"cold": 1.0, "warm": 0.5}),
        ("a name long enough to need a second line", {"cold": 3.0}),
        ("failed", {"warm": float("nan")}),
    ]
    assert bars(path, "Seconds to convert", rows, "seconds", "one line\nanother") is None
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "matplotlib.pyplot" not in sys.modules


def test_without_matplotlib_a_chart_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.backends.backend_agg", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    reason = bars(tmp_path / "chart.png", "title", [("a", {"b": 1.0})])
    assert reason is not None
    assert "install matplotlib" in reason
    assert not list(tmp_path.iterdir())


def test_tables() -> None:
    headers, rows = ("scheme", "error"), [("fp8", 0.0265), ("int8_convrot", None), ("none", 0)]
    assert text_table(headers, rows).splitlines() == [
        "scheme         error",
        "------------  ------",
        "fp8           0.0265",
        "int8_convrot       -",
        "none               0",
    ]
    assert markdown_table(headers, [("a|b", 1.5)]).splitlines() == [
        "| scheme | error |",
        "| --- | ---: |",
        "| a\\|b | 1.5 |",
    ]
    with pytest.raises(ValueError, match="2 cells"):
        text_table(headers, [("fp8",)])


def test_a_result_file_comes_back_as_it_went(tmp_path: Path) -> None:
    machine = {"cpu": "a cpu", "gpu": {"name": "NVIDIA L4"}}
    result = Result("files", "2026-01-31", [{"scheme": "fp8", "seconds": 1.5}], machine, "abc")
    path = write_result(tmp_path / "results", result)
    assert path.name == "2026-01-31-files-nvidia-l4.json"
    assert read_result(path) == result
    without_gpu = Result("ops", "2026-01-31", [], {"gpu": None})
    assert write_result(tmp_path, without_gpu).name == "2026-01-31-ops-cpu.json"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "rows": []}', "\x00"])
def test_another_file_is_no_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(Refused, match="not-a-result"):
        read_result(tmp_path / "x.json")


def test_hardware_is_plain_json_and_names_the_machine() -> None:
    facts = json.loads(json.dumps(hardware(), allow_nan=False))
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert facts["torch"]
    assert {"ram_bytes", "os", "python", "comfy_kitchen", "gpu"} <= facts.keys()


def test_copies_and_reads_are_whole_and_timed(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(bytes(range(256)) * 40_000)
    assert disk.copy_and_sync(source, target) > 0
    assert target.read_bytes() == source.read_bytes()
    assert disk.read_through(target) > 0
    assert disk.drop_from_cache(target) in (True, False)
    assert target.stat().st_size == source.stat().st_size
