"""README.md and pages of docs/ in, the same with their generated sections made again out.

`python make_readme.py`. A section lies between `<!-- NAME -->` and `<!-- /NAME -->`; PAGES says
which page has which, and what makes each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusequant.authoring import steps, table
from fusequant.engine import devices
from fusequant.engine.advise import guide
from fusequant.engine.measure.results import Result, read_result
from fusequant.engine.measure.table import markdown_table

ROOT = Path(__file__).resolve().parent.parent
ORDERS = ("quantize_then_lora", "fused_quantized")  # the wrong one first
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
RESULTS_FROM_DOCS = "../benchmarks/results"
ADVICE, INSTALL = ROOT / "docs" / "advice.md", ROOT / "docs" / "install.md"
QUALITY, SPEED = ROOT / "docs" / "quality.md", ROOT / "docs" / "speed.md"
NO_OPS = (
    "No run on a quiet machine is recorded yet. `fusequant bench ops --device cpu --save "
    "benchmarks/results`, then `python benchmarks/make_readme.py`, puts one here."
)
NO_STEP = (
    "No run on a quiet machine is recorded yet. `python -m pytest tests/live/bench_step.py`, then "
    "`python benchmarks/make_readme.py`, puts one here."
)


def newest(benchmark: str) -> tuple[Path, Result]:
    """The newest result file of a benchmark."""
    path = max(RESULTS.glob(f"*-{benchmark}-*.json"))
    return path, read_result(path)


def where(path: Path, result: Result, folder: str = "benchmarks/results") -> str:
    """The file, and the machine that it was measured on; `folder` as seen from the page."""
    facts = result.hardware
    machine = f"{facts['cpu']}, {facts['cores']} cores, torch {facts['torch']}"
    return f"[{path.name}]({folder}/{path.name}): {machine}."


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


def budget_table() -> str:
    """Files of equal bytes by how far the output moves: ours beside the best other one."""
    path, result = newest("quality")
    rows = [
        (
            row["model"],
            row["what"],
            f"{row['budget'] / 1e6:.1f} MB",
            f"{row['output_error']:.4f}",
            f"{row['best_error']:.4f}",
            f"{row['ratio']:.2f}",
            row["best"],
        )
        for row in result.rows
        if row["who"] == "fusequant"
    ]
    head = ("model", "budget", "bytes", "ours", "best other", "ratio", "which is")
    ratios = [row["ratio"] for row in result.rows if row["who"] == "fusequant"]
    goal = result.settings["goal"]
    reached = sum(ratio <= goal for ratio in ratios)
    lines = [
        markdown_table(head, rows),
        "",
        f"A ratio of {goal} or less is the goal: reached by {reached} of {len(ratios)} files.",
        "",
        where(path, result, RESULTS_FROM_DOCS),
    ]
    return "\n".join(lines)


def others_table() -> str:
    """Every other file, by model and by who made it."""
    _, result = newest("quality")
    versions = result.settings["versions"]
    rows = [
        (
            row["model"],
            " ".join(part for part in (row["who"], versions.get(row["who"])) if part),
            row["what"],
            f"{row['bytes'] / 1e6:.1f} MB" if "bytes" in row else "",
            f"{row['output_error']:.4f}" if "bytes" in row else row["why_not"],
        )
        for row in result.rows
        if row["who"] not in ("fusequant", "rounding")
    ]
    return markdown_table(("model", "who", "what", "bytes", "output error"), rows)


def rounding_table() -> str:
    """What each way to round gains and costs."""
    _, result = newest("quality")
    rows = [
        (
            row["model"],
            f"`{row['what'].split(', ')[0]}`",
            row["what"].split(", ")[1],
            f"{row['output_error']:.4f}",
            f"{row['cpu_seconds']:.1f} s",
        )
        for row in result.rows
        if row["who"] == "rounding"
    ]
    return markdown_table(("model", "scheme", "rounding", "output error", "CPU time"), rows)


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


def order_tables() -> str:
    """What the order does to the error of each scheme, and what each order costs."""
    path, result = newest("order")
    rows = {(row["scheme"], row["strategy"]): row for row in result.rows}
    schemes = dict.fromkeys(scheme for scheme, _ in rows if scheme != "none")

    def pair(scheme: str, what: str) -> tuple[str, str]:
        after, fused = (rows[scheme, name][what] for name in ORDERS)
        return f"{after:.4f}", f"{fused:.4f}"

    errors = [
        (f"`{scheme}`", *pair(scheme, "weight_error"), *pair(scheme, "output_error"))
        for scheme in schemes
    ]
    head = ("", "weight: LoRA after", "fused first", "output: LoRA after", "fused first")
    costs = [
        (
            row["strategy"],
            "" if row["scheme"] == "none" else f"`{row['scheme']}`",
            f"{row['load_s']:.2f} s",
            f"{1000 * row['step_s']:.0f} ms",
            f"{row['first_switch_s']:.2f} s",
            f"{row['switch_s']:.2f} s",
            f"{(row['peak_bytes'] or 0) / 1e6:.0f} MB",
        )
        for row in result.rows
        if row["scheme"] in ("none", "int8")
    ]
    told = ("order", "", "load", "a step", "new strength", "one used before", "private memory")
    return "\n\n".join(
        [markdown_table(head, errors), markdown_table(told, costs), where(path, result)]
    )


def host_table() -> str:
    """Quantizing a model and changing a LoRA in ComfyUI, each beside the way that it saves."""
    path, result = newest("host")
    jobs = {(r["job"], r.get("scheme"), r.get("cache")): r for r in result.rows}
    rows = []
    for cache in ("off", "on"):
        row = jobs["quantize", "int8", cache]
        memory = f"{row['over_baseline_bytes'] / 1e9:.2f} GB"
        rows.append((f"Quantize Model, `int8`, cache {cache}", f"{row['seconds']:.1f} s", memory))
    for scheme in ("int8", "fp8"):
        for job, node in (("stock_lora", "stock LoRA loader"), ("live_lora", "Live LoRA")):
            row = jobs[job, scheme, None]
            said = f"a new strength on `{scheme}` weights, {node}"
            rows.append((said, f"{row['change_s']:.2f} s", ""))
    start, stock = jobs["cached_start", "int8", None], jobs["stock_start", "int8", None]
    rows += [
        (
            "Queue to first step, `int8` recipe in the cache",
            f"{start['warm_start_s']:.2f} s; reading its file once: {start['warm_read_s']:.2f} s",
            f"{start['over_baseline_bytes'] / 1e9:.2f} GB",
        ),
        ("the same behind ComfyUI's own loader", f"{stock['start_s']:.2f} s", ""),
    ]
    head = ("", "time", "private memory over the loaded model")
    return f"{markdown_table(head, rows)}\n\n{where(path, result)}"


def install_table() -> str:
    """What an installation takes, step by step, in each way that was run."""
    path = max(RESULTS.glob("*-install.json"))
    result = read_result(path)
    rows = [
        (f"`{row['way']}`", row["step"], f"{row['seconds']:.1f} s", row["said"])
        for row in result.rows
        if row["seconds"] > 0
    ]
    facts = result.hardware
    told = (
        f"ComfyUI {facts['comfyui']}, ComfyUI-Manager {facts['comfyui_manager']}. Other work was "
        f"on the machine: load average {result.settings['load_average']}."
    )
    head = ("way", "step", "time", "the end of what it said")
    return f"{markdown_table(head, rows)}\n\n{where(path, result, RESULTS_FROM_DOCS)} {told}"


def ops_table() -> str:
    """How many times as fast as fp32 each way to multiply is, a table for each number of rows."""
    if not list(RESULTS.glob("*-ops-*.json")):
        return NO_OPS
    path, result = newest("ops")
    parts = []
    for tokens in dict.fromkeys(row["tokens"] for row in result.rows):
        here = [row for row in result.rows if row["tokens"] == tokens]
        shapes = list(dict.fromkeys((row["n"], row["k"]) for row in here))
        ways: dict[tuple[str, str], dict[tuple[int, int], str]] = {}
        for row in here:
            who = (row["scheme"], row["backend"])
            told = f"{row['over_fp32']:.2f} ({row['median_s'] * 1e3:.0f} ms)"
            ways.setdefault(who, {})[row["n"], row["k"]] = told
        rows = [
            (
                plain_product(backend) if scheme == "none" else f"`{scheme}`, {backend}",
                *(times.get(shape, "") for shape in shapes),
            )
            for (scheme, backend), times in ways.items()
        ]
        parts += [
            f"{tokens} rows:",
            markdown_table(("", *(f"{n} x {k}" for n, k in shapes)), rows),
        ]
    settings = result.settings
    missing = [f"{who}: {why}." for who, why in settings["not_run"].items()]
    missing += [f"Cut: {cell}." for cell in settings["cut"]]
    return "\n\n".join([*parts, where(path, result, RESULTS_FROM_DOCS),
                        *(["Not timed, with the reason:"] if missing else []),
                        "\n".join(f"- {line}" for line in missing)])  # fmt: skip


def step_tables(make: Callable[[Result], str], folder: str) -> str:
    """One step in ComfyUI by every way to hold a model."""
    if not list(RESULTS.glob("*-step-*.json")):
        return NO_STEP
    path, result = newest("step")
    return f"{make(result)}\n\n{where(path, result, folder)}"


def plain_product(backend: str) -> str:
    """A product without quantizing."""
    return {"BF16": "bf16, torch", "F32": "fp32, torch"}[backend]


Sections = Mapping[str, Callable[[], str]]

SECTIONS: Sections = {
    "workflows": table.readme,
    "devices": devices.table,
    "files": files_table,
    "order": order_tables,
    "memory": memory_table,
    "host": host_table,
    "step": lambda: step_tables(steps.short, "benchmarks/results"),
}
ADVICE_SECTIONS: Sections = {
    "tiers": guide.tiers,
    "modes": modes_table,
    "decisions": guide.decisions,
    "speed": lambda: guide.speed(RESULTS_FROM_DOCS),
}
INSTALL_SECTIONS: Sections = {"install": install_table}
QUALITY_SECTIONS: Sections = {
    "budgets": budget_table,
    "others": others_table,
    "rounding": rounding_table,
}
SPEED_SECTIONS: Sections = {
    "ops": ops_table,
    "step": lambda: step_tables(steps.page, RESULTS_FROM_DOCS),
}
PAGES: dict[Path, Sections] = {
    README: SECTIONS,
    ADVICE: ADVICE_SECTIONS,
    INSTALL: INSTALL_SECTIONS,
    QUALITY: QUALITY_SECTIONS,
    SPEED: SPEED_SECTIONS,
}


def filled(text: str, sections: Sections = SECTIONS) -> str:
    """The text of a page with every section replaced by what makes it."""
    for name, make in sections.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(opening)
        _, ended, after = rest.partition(closing)
        if not (found and ended):
            raise ValueError(f"the page has no section between {opening} and {closing}")
        text = f"{before}{opening}\n\n{make()}\n\n{closing}{after}"
    return text


def main() -> int:
    """Write the pages again where a section has changed; 0 in any case."""
    for page, sections in PAGES.items():
        old = page.read_text(encoding="utf-8")
        new = filled(old, sections)
        if new != old:
            page.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
