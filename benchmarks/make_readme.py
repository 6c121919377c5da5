"""README.md in, the same with its generated sections made again out: `python make_readme.py`.

A section lies between `<!-- NAME -->` and `<!-- /NAME -->`; SECTIONS says what makes each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusequant.engine import devices
from fusequant.engine.advise import guide
from fusequant.engine.measure.results import Result, read_result
from fusequant.engine.measure.table import markdown_table

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"


def newest(benchmark: str) -> tuple[Path, Result]:
    """The newest result file of a benchmark."""
    path = max(RESULTS.glob(f"*-{benchmark}-*.json"))
    return path, read_result(path)


def where(path: Path, result: Result) -> str:
    """The file, and the machine that it was measured on."""
    facts = result.hardware
    machine = f"{facts['cpu']}, {facts['cores']} cores, torch {facts['torch']}"
    return f"[{path.name}](benchmarks/results/{path.name}): {machine}."


def files_table() -> str:
    """Converting a large file beside the comfy-kitchen loop and `cp`."""
    path, result = newest("files")
    loops = {row["scheme"]: row for row in result.rows if row["contender"] == "kitchen"}
    rows = []
    for row in result.rows:
        if row["contender"] == "kitchen":
            continue
        loop = loops.get(row["scheme"])
        error = row["weight_error"]
        rows.append(
            (
                "`cp` and fsync" if row["contender"] == "cp" else f"`{row['scheme']}`",
                f"{row['median_s']:.1f} s",
                f"{loop['median_s']:.1f} s" if loop else "",
                f"{row['private_peak_bytes'] / 1e6:.0f} MB",
                f"{loop['private_peak_bytes'] / 1e9:.1f} GB" if loop else "",
                f"{error:.4f}" if error else "",
                f"{loop['weight_error']:.4f}" if loop else "",
            )
        )
    head = ("", "time", "plain loop", "private memory", "plain loop", "weight error", "plain loop")
    return f"{markdown_table(head, rows)}\n\n{where(path, result)}"


JOBS = {"load": "load, as stored or quantizing", "quantize": "Quantize Model", "sample": "a step"}
FAMILIES = {"flux": "FLUX", "wan": "Wan", "qwen": "Qwen-Image"}


def memory_table() -> str:
    """Private memory predicted and measured: the worst case of each job and family."""
    path, result = newest("memory")
    rows = []
    for job, title in JOBS.items():
        for family, name in FAMILIES.items():
            cases = [x for x in result.rows if (x["job"], x["model"]) == (job, family)]
            if not cases:
                continue
            peaks = [case["peak_bytes"] / 1e9 for case in cases]
            rows.append(
                (
                    title,
                    name,
                    len(cases),
                    f"{min(peaks):.2f} to {max(peaks):.2f} GB",
                    *(_farthest(cases, key) for key in ("error", "error_over_held")),
                )
            )
    head = ("", "model", "cases", "peaks", "worst prediction", "of what came on top alone")
    off = sum(abs(case["error"]) > 0.10 for case in result.rows)
    out = [case for case in result.rows if case["held_out"]]
    worst = _farthest(out, "error")
    said = (
        f"{len(result.rows) - off} of {len(result.rows)} cases are within 10 % of the process's "
        f"private memory. {len(out)} were held out while the prediction was made: {worst} at worst."
    )
    return f"{markdown_table(head, rows)}\n\n{said}\n\n{where(path, result)}"


def _farthest(cases: Sequence[Mapping[str, Any]], key: str) -> str:
    found = [case[key] for case in cases if case[key] is not None]
    return f"{100 * max(found, key=abs):+.0f} %" if found else ""


def modes_table() -> str:
    """The five modes, with the weight error of fp8 from the newest conversion."""
    _, result = newest("files")
    errors = [row["weight_error"] for row in result.rows if row["scheme"] == "fp8"]
    return guide.modes(next(error for error in errors if error))


SECTIONS: dict[str, Callable[[], str]] = {
    "devices": devices.table,
    "tiers": guide.tiers,
    "modes": modes_table,
    "decisions": guide.decisions,
    "speed": lambda: guide.speed("benchmarks/results"),
    "files": files_table,
    "memory": memory_table,
}


def filled(text: str) -> str:
    """The text of a README with every section of SECTIONS replaced by what makes it."""
    for name, make in SECTIONS.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(opening)
        _, ended, after = rest.partition(closing)
        if not (found and ended):
            raise ValueError(f"README.md has no section between {opening} and {closing}")
        text = f"{before}{opening}\n\n{make()}\n\n{closing}{after}"
    return text


def main() -> int:
    """Write README.md again where a section has changed; 0 in any case."""
    old = README.read_text(encoding="utf-8")
    new = filled(old)
    if new != old:
        README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
