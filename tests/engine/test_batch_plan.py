"""Before anything runs: sizes, memory, cores, disk, time, and the log of earlier runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from fusequant.engine.batch import room
from fusequant.engine.batch.entry import Entry, Part
from fusequant.engine.batch.journal import Journal, lines_of, usual_path
from fusequant.engine.batch.pace import MEASURED, PLAN_S, START_S, Pace
from fusequant.engine.batch.plan import PROCESS_BYTES, Planned, PlannedPart, plan
from fusequant.engine.batch.ram import _cgroup, available_bytes, usual_cap
from fusequant.engine.batch.room import SPARE_BYTES, rooms, too_small
from fusequant.engine.batch.share import shares
from fusequant.engine.errors import Refused
from fusequant.engine.measure.config import FluxConfig
from fusequant.engine.measure.hardware import ram_bytes
from fusequant.engine.measure.synthetic import write_flux_like
from fusequant.engine.measure.timing import PrivatePeak
from fusequant.engine.schemes.int8 import SCHEME as INT8

GB = 10**9
CONFIG = FluxConfig(hidden=256, double_blocks=1, single_blocks=1)


def planned(
    name: str,
    out: Path,
    size: int = GB,
    peaks: Sequence[int] = (GB,),
    done: bool = False,
    scheme: str = INT8.name,
) -> Planned:
    part = Part("", Path("s"), (), {"scheme": scheme, "device": "cpu"}, out)
    return Planned(
        Entry(name, (part,)),
        (PlannedPart(part, scheme, "", 2 * size, size, tuple(peaks), done, (), ()),),
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "m.safetensors"
    write_flux_like(path, CONFIG, seed=0)
    return path


def test_a_plan_knows_size_and_memory_from_headers(source: Path, tmp_path: Path) -> None:
    part = Part("", source, (), {"scheme": "int8", "device": "cpu"}, tmp_path / "o")
    other = Part("", source, (), {"scheme": "int8", "device": "cpu", "keep": ("no.*",)}, part.out)
    found, troubles = plan([Entry("good", (part,)), Entry("bad", (other,))])
    assert [(x.recipe, x.refusal.kind) for x in troubles] == [("bad", "keep-matches-nothing")]
    (good,) = found
    assert 7e6 < good.source_bytes < source.stat().st_size
    assert 4e6 < good.bytes < good.source_bytes
    assert list(good.parts[0].peaks) == sorted(good.parts[0].peaks)
    assert good.need_bytes(2) == PROCESS_BYTES + good.parts[0].peaks[1]


def test_cores_are_divided_and_memory_takes_some_away(tmp_path: Path) -> None:
    wide = planned("wide", tmp_path / "w", peaks=(1 * GB, 2 * GB, 3 * GB, 4 * GB))
    found, troubles = shares([wide, wide], 2, 8, 64 * GB)
    assert (found.at_once, found.layers["wide"], troubles) == (2, 4, [])
    found, _ = shares([wide, wide], None, 16, 3 * GB + PROCESS_BYTES)
    assert (found.at_once, found.layers["wide"]) == (2, 3)
    found, _ = shares([wide], None, 2, 64 * GB)
    assert (found.at_once, found.layers["wide"]) == (1, 2)
    found, (trouble,) = shares([wide], None, 2, GB)
    assert trouble.refusal.kind == "over-memory"
    assert "wide" not in found.layers


def test_a_pair_needs_the_memory_of_its_larger_half(tmp_path: Path) -> None:
    high, low = planned("h", tmp_path / "h", peaks=(5,)), planned("l", tmp_path / "l", peaks=(7,))
    pair = Planned(Entry("p", high.entry.parts + low.entry.parts), high.parts + low.parts)
    assert pair.need_bytes(1) == PROCESS_BYTES + 7
    assert pair.bytes == 2 * GB


def test_disk_is_counted_by_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "old"
    old.write_bytes(bytes(600))
    recipes = [
        planned("fresh", tmp_path / "deep" / "er" / "x", 1000),
        planned("again", old, 1000),
        planned("other", Path("/proc/x") if os.name == "posix" else tmp_path / "y", 50),
    ]
    found = rooms(recipes, 2)
    assert found[0].folder == tmp_path / "deep" / "er"
    assert found[0].needs_bytes >= 1000 + 400 + 600 + 2 * SPARE_BYTES
    assert len(found) == (2 if os.name == "posix" else 1)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: usage)
    (trouble, *_) = too_small(rooms(recipes, 2))
    assert (trouble.recipe, trouble.refusal.kind) == ("", "disk-full")


def test_time_is_by_the_table_then_by_earlier_recipes_then_by_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = [planned(f"r{i}", tmp_path / f"{i}", 10 * GB) for i in range(2)]
    assert Pace().seconds(recipes[0]) == pytest.approx(20 * GB / MEASURED["int8"])
    line = {"state": "done", "scheme": "int8", "source_bytes": GB, "seconds": 10, "at_once": 2}
    wrong = [{"state": "failed"}, {"state": "done", "scheme": 3}, {**line, "seconds": 0}, {}]
    pace = Pace([line, *wrong])
    assert pace.is_own
    assert pace.seconds(recipes[0]) == pytest.approx(100)  # 0.2 GB/s of the whole machine
    assert pace.total_s(recipes, 2) == pytest.approx(200 + START_S)
    clock = iter((0.0, 125.0, 230.0))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    pace.begin(recipes, 2)
    assert pace.left_s() is None
    pace.moved("r0", 0.5)
    # a quarter of 203 s took 125 s, the three quarters left take about twice what was planned
    quarter = (200 + START_S) / 4
    assert pace.left_s() == pytest.approx(3 * quarter * (125 + PLAN_S) / (quarter + PLAN_S))
    pace.moved("r0", 1.0)
    assert pace.left_s() == pytest.approx(2 * quarter * (230 + PLAN_S) / (2 * quarter + PLAN_S))


def test_the_log_keeps_lines_and_passes_over_a_cut_one(tmp_path: Path) -> None:
    path = usual_path(tmp_path / "r.toml")
    assert path.name == "r.toml.log"
    assert lines_of(path) == []
    with Journal(path) as journal:
        journal.write({"name": "Ä", "state": "done"})
    with path.open("a", encoding="utf-8") as file:
        file.write('{"name": "cut", "sta\n[3]\n')
    with Journal(path) as journal:
        journal.write({"name": "b"})
    assert [line["name"] for line in lines_of(path)] == ["Ä", "b"]


def test_one_batch_at_a_time_and_a_dead_one_locks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.log"
    code = (
        "import sys; from pathlib import Path; from fusequant.engine.batch.journal import Journal\n"
        f"with Journal(Path({str(path)!r})): sys.stdout.write('in'); sys.stdout.flush(); "
        "sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.read(2) == b"in"
    with pytest.raises(Refused, match="batch-running"), Journal(path):
        pass
    other.kill()
    other.communicate()
    with Journal(path):
        pass
    with pytest.raises(Refused, match="not-writable"), Journal(tmp_path / "no" / "r.log"):
        pass


def test_memory_is_what_the_container_leaves(tmp_path: Path) -> None:
    total = ram_bytes()
    assert 0 < usual_cap() < available_bytes() <= (total or sys.maxsize)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500\n")
    (tmp_path / "memory.stat").write_text("anon 300\nfile 200\n")
    assert _cgroup(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert _cgroup(tmp_path) == 700
    assert _cgroup(tmp_path / "none") is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_needs_no_more_than_predicted(source: Path, tmp_path: Path) -> None:
    from fusequant.engine.batch.task import task_from

    part = Part("", source, (), {"scheme": "int8_convrot", "device": "cpu"}, tmp_path / "o")
    (found,), _ = plan([Entry("one", (part,))])
    given = task_from(tmp_path / "r.toml", found, 2)
    process = subprocess.Popen(
        [sys.executable, "-m", "fusequant.engine.batch.worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with PrivatePeak(process.pid) as peak:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(given.to_json()).encode() + b"\n")
        process.stdin.flush()
        last = process.stdout.read().splitlines()[-1]
    process.communicate(timeout=60)
    assert json.loads(last)["state"] == "done"
    assert peak.peak_bytes is not None
    assert PROCESS_BYTES / 2 < peak.peak_bytes < given.need_bytes
