"""A ComfyUI and a time budget in; every case asked, a JSON result file and a table out.

Each model has a process of its own, so that one that dies or hangs costs one case.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from fusequant.engine.measure.hardware import hardware
from fusequant.engine.measure.results import Result, write_result

from .cases import Group, groups, title
from .kernels import NO_PYTEST
from .process import LATE, Row, follow
from .start import HERE, ROOT
from .table import comfy_version, commit, compared, counted, table
from .worker import Job

OVERTIME_S = 20.0  # beyond the budget before a running case is given up
KERNELS_S, KERNELS_LIMIT_S = 30.0, 240.0
KERNELS_LINES = 40
NO_TESTS = 5  # pytest's exit code when nothing was selected


def main(arguments: list[str]) -> int:
    """Run everything; 1 when a case that could run failed."""
    given = parsed(arguments)
    import torch

    cuda = torch.cuda.is_available()
    tiny = given.tiny or not cuda
    wanted = groups(tiny, given.only)
    if not wanted:
        sys.stderr.write(f"no case has {given.only!r} in its name\n")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="fusequant-gpu-"))
    out = Path(given.out) if given.out else folder if tiny else ROOT / "benchmarks" / "results"
    started = time.time()
    run = Driver(given.comfy, folder, tiny, not cuda, started + given.budget_s)
    if cuda and not given.only:
        run.kernels()
    run.everything(wanted)
    seconds = round(time.time() - started, 1)
    settings = {"budget_s": given.budget_s, "comfyui": comfy_version(given.comfy), "cuda": cuda}
    settings["seconds"] = seconds
    date, name = datetime.date.today().isoformat(), "gpu-run-tiny" if tiny else "gpu-run"
    rows = compared(run.rows)
    path = write_result(out, Result(name, date, rows, hardware(), commit(ROOT), settings))
    sys.stdout.write(f"{table(rows)}\n\n{counted(rows)} in {seconds:.0f} s\n{path}\n")
    return 1 if any(row["status"] == "failed" for row in rows) else 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The arguments that `run` hands on."""
    parser = argparse.ArgumentParser(prog="tests/gpu/run")
    parser.add_argument("comfy")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--budget-s", type=float, default=560.0)
    parser.add_argument("--out")
    parser.add_argument("--only")
    return parser.parse_args(arguments)


class Driver:
    """Starts the processes and collects their rows. `until` is when the budget ends."""

    def __init__(self, comfy: str, folder: Path, tiny: bool, cpu: bool, until: float) -> None:
        self.comfy, self.folder, self.tiny, self.cpu, self.until = comfy, folder, tiny, cpu, until
        self.rows: list[Row] = []
        self._started = 0

    def everything(self, wanted: Sequence[Group]) -> None:
        """Every group; each gets its share of the time that is left when its turn comes."""
        left = list(wanted)
        for together in self._batches(wanted):
            now, total, ends = time.time(), sum(group.weight for group in left), {}
            at = now
            for group in together:
                at += (self.until - now) * group.weight / total
                ends[group.name] = at
                left.remove(group)
            self._batch(together, ends)

    def _batches(self, wanted: Sequence[Group]) -> Iterator[Sequence[Group]]:
        """Groups that share a process: tiny models all do, full ones never."""
        if self.tiny:
            yield wanted
            return
        for group in wanted:
            yield [group]

    def _batch(self, together: Sequence[Group], ends: Mapping[str, float]) -> None:
        """Ask every case; a process that ends early is followed by one for the cases left."""
        asked = {group.name: [title(group, case) for case in group.cases] for group in together}
        while asked:
            wanted = {name: (titles, ends[name]) for name, titles in asked.items()}
            before = len(self.rows)
            for row in self._process(wanted, together[0].dynamic):
                self._take(row)
            done = {row["case"] for row in self.rows[before:]}
            left = {name: [one for one in asked[name] if one not in done] for name in asked}
            left = {name: titles for name, titles in left.items() if titles}
            if left == asked or time.time() > self.until:
                self._give_up(left)
                return
            asked = left

    def _give_up(self, left: Mapping[str, Sequence[str]]) -> None:
        """No process got as far as these cases: a failure, unless time was short."""
        late = time.time() > self.until
        answer = ("skipped", LATE) if late else ("failed", "no process got as far as this case")
        for titles in left.values():
            for one in titles:
                self._take({"case": one, "status": answer[0], "why": answer[1]})

    def command(self, job: Path) -> list[str]:
        """What starts a worker for the file of a job."""
        return [sys.executable, str(HERE / "start.py"), "worker", str(job)]

    def _process(self, wanted: dict[str, tuple[list[str], float]], dynamic: bool) -> Iterator[Row]:
        self._started += 1
        base = self.folder / f"base-{self._started}"
        base.mkdir()
        lines = base / "lines.jsonl"
        job = Job(self.comfy, str(base), str(lines), self.tiny, self.cpu, dynamic, wanted)
        (base / "job.json").write_text(json.dumps(asdict(job)), encoding="utf-8")
        start, last = f"{', '.join(wanted)}: start", self.until + OVERTIME_S
        return follow(self.command(base / "job.json"), base, lines, start, last, self.comfy)

    def _take(self, row: Row) -> None:
        self.rows.append(row)
        told = (row.get("why") or "").partition("\n")[0]
        sys.stderr.write(f"{row['status']:8} {row['case']}  {told}".rstrip() + "\n")
        sys.stderr.flush()

    def kernels(self) -> None:
        """The tests of ops and schemes on the card, by pytest in ComfyUI's interpreter."""
        row: Row = {"case": "kernels: pytest -m gpu"}
        if time.time() + KERNELS_S > self.until:
            self._take({**row, "status": "skipped", "why": LATE})
            return
        started = time.time()
        command = [sys.executable, str(HERE / "start.py"), "kernels"]
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=KERNELS_LIMIT_S
            )
        except subprocess.TimeoutExpired:
            self._take({**row, "status": "failed", "why": f"no end in {KERNELS_LIMIT_S:.0f} s"})
            return
        said = (done.stdout + done.stderr).strip().splitlines()[-KERNELS_LINES:] or [""]
        status = {0: "ok", NO_PYTEST: "skipped", NO_TESTS: "skipped"}.get(done.returncode, "failed")
        seconds = round(time.time() - started, 1)
        self._take({**row, "status": status, "why": said[-1], "seconds": seconds, "trace": said})
