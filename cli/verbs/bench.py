"""`fusequant bench`: a benchmark's name in, measured rows beside the plain ways out."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..options import count_argument, size_argument
from ..text import columns, gigabytes
from ..verb import Answer, Verb


def arguments(parser: argparse.ArgumentParser) -> None:
    """`bench files|quality [--gib N] [--rounds N] [--scheme S]... [--tools DIR] [--save DIR]`."""
    told = "; ".join(f"{name}: {one.help}" for name, one in BENCHMARKS.items())
    parser.add_argument("what", choices=sorted(BENCHMARKS), help=told)
    parser.add_argument("--gib", type=size_argument, default=4.0, help="size of the source")
    parser.add_argument("--rounds", type=count_argument, default=3)
    parser.add_argument("--scheme", action="append", metavar="S", help="only this one; repeat")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: temporary)")
    parser.add_argument(
        "--tools",
        type=Path,
        metavar="DIR",
        help="quality: the bin folder where convert_to_quant and comfy-quants are installed",
    )
    parser.add_argument("--save", type=Path, metavar="DIR", help="write a result file there")


def run(args: argparse.Namespace) -> Answer:
    """Run one benchmark and, if asked, keep its result file."""
    from ...engine.measure.hardware import hardware
    from ...engine.measure.results import Result, write_result

    chosen = BENCHMARKS[args.what]
    rows = chosen.run(args)
    result = Result(
        benchmark=args.what,
        date=datetime.date.today().isoformat(),
        rows=rows,
        hardware=hardware(),
        settings={name: getattr(args, name) for name in chosen.settings},
    )
    saved = str(write_result(args.save, result)) if args.save else None
    return {"benchmark": args.what, "rows": rows, "hardware": result.hardware, "saved": saved}


def tell(line: str) -> None:
    """A line about what is done, beside the answer."""
    sys.stderr.write(f"  {line}\n")


@contextmanager
def working_folder(place: Path | None) -> Iterator[Path]:
    """A folder for the files of a benchmark, gone afterwards."""
    from ...engine.files.writer import unwritable

    place = place or Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            yield Path(folder)
    except OSError as fault:
        raise unwritable(place, fault) from fault


def bench_files(args: argparse.Namespace) -> list[dict[str, object]]:
    """Convert a synthetic file beside the comfy-kitchen loop and `cp`."""
    from ...engine.bench.files import SCHEMES
    from ...engine.bench.files import bench_files as measure
    from ...engine.scheme_names import resolve

    schemes = [resolve(name)[0] for name in args.scheme or SCHEMES]
    with working_folder(args.folder) as folder:
        rows = measure(folder, int(args.gib * 2**30), args.rounds, schemes, tell)
    return [row.to_json() for row in rows]


def bench_quality(args: argparse.Namespace) -> list[dict[str, object]]:
    """Files of equal bytes, ours and those of others, by how far the output moves."""
    from ...engine.bench.quality import bench_quality as measure

    with working_folder(args.folder) as folder:
        return [row.to_json() for row in measure(folder, args.tools, tell)]


def text(answer: Answer) -> str:
    """The rows of a benchmark as a page."""
    lines = BENCHMARKS[answer["benchmark"]].text(answer)
    return "\n".join([*lines, *([answer["saved"]] if answer["saved"] else [])])


def files_lines(answer: Answer) -> list[str]:
    """One line a contender, ours beside the loop of the same scheme."""
    loop = {
        row["scheme"]: row["median_s"] for row in answer["rows"] if row["contender"] == "kitchen"
    }
    rows = [("scheme", "who", "seconds", "of loop", "private peak", "file", "weight error")]
    for row in answer["rows"]:
        base = loop.get(row["scheme"])
        peak, error = row["private_peak_bytes"], row["weight_error"]
        rows.append(
            (
                row["scheme"],
                row["contender"],
                f"{row['median_s']:.2f}",
                f"{row['median_s'] / base:.2f}" if base else "",
                gigabytes(peak) if peak is not None else "not measured",
                gigabytes(row["bytes"]),
                f"{error:.4f}" if error is not None else "",
            )
        )
    return columns(rows)


def quality_lines(answer: Answer) -> list[str]:
    """Each model: every file by its bytes, ours with the ratio to the best other one."""
    lines: list[str] = []
    for model in dict.fromkeys(row["model"] for row in answer["rows"]):
        rows = [("who", "what", "size", "output error", "of the best other in as many bytes")]
        found = [row for row in answer["rows"] if row["model"] == model]
        for row in sorted(found, key=lambda row: row.get("bytes") or 0):
            if "why_not" in row:
                rows.append((row["who"], row["what"], "", "", row["why_not"]))
                continue
            size, error = gigabytes(row["bytes"]), f"{row['output_error']:.5f}"
            ratio = f"{row['ratio']:.2f} of {row['best']}" if "ratio" in row else ""
            rows.append((row["who"], row["what"], size, error, ratio))
        lines += [model, *columns(rows)]
    return lines


@dataclass(frozen=True)
class Benchmark:
    """`run` gives the rows, `text` the lines that show them; `settings`: arguments to record."""

    help: str
    run: Callable[[argparse.Namespace], list[dict[str, object]]]
    text: Callable[[Answer], list[str]]
    settings: tuple[str, ...] = ()


BENCHMARKS = {
    "files": Benchmark("converting beside cp", bench_files, files_lines, ("gib", "rounds")),
    "quality": Benchmark(
        "output error at equal bytes, beside other tools", bench_quality, quality_lines
    ),
}
VERB = Verb("bench", "measure this machine", arguments, run, text)
