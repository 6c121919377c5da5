"""`fusequant bench`: a benchmark's name in, measured rows beside the plain ways out."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..options import count_argument, size_argument
from ..text import columns, gigabytes
from ..verb import Answer, Verb


def arguments(parser: argparse.ArgumentParser) -> None:
    """`bench files [--gib N] [--rounds N] [--scheme S]... [--save DIR]`."""
    parser.add_argument("what", choices=sorted(BENCHMARKS), help="files: converting beside cp")
    parser.add_argument("--gib", type=size_argument, default=4.0, help="size of the source")
    parser.add_argument("--rounds", type=count_argument, default=3)
    parser.add_argument("--scheme", action="append", metavar="S", help="only this one; repeat")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: temporary)")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write a result file there")


def run(args: argparse.Namespace) -> Answer:
    """Run one benchmark and, if asked, keep its result file."""
    from ...engine.measure.hardware import hardware
    from ...engine.measure.results import Result, write_result

    rows = BENCHMARKS[args.what](args)
    result = Result(
        benchmark=args.what,
        date=datetime.date.today().isoformat(),
        rows=rows,
        hardware=hardware(),
        settings={"gib": args.gib, "rounds": args.rounds},
    )
    saved = str(write_result(args.save, result)) if args.save else None
    return {"benchmark": args.what, "rows": rows, "hardware": result.hardware, "saved": saved}


def bench_files(args: argparse.Namespace) -> list[dict[str, object]]:
    """Convert a synthetic file beside the comfy-kitchen loop and `cp`."""
    from ...engine.bench.files import SCHEMES
    from ...engine.bench.files import bench_files as measure
    from ...engine.files.writer import unwritable
    from ...engine.scheme_names import resolve

    def tell(line: str) -> None:
        sys.stderr.write(f"  {line}\n")

    schemes = [resolve(name)[0] for name in args.scheme or SCHEMES]
    place = args.folder or Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            rows = measure(Path(folder), int(args.gib * 2**30), args.rounds, schemes, tell)
    except OSError as fault:
        raise unwritable(place, fault) from fault
    return [row.to_json() for row in rows]


def text(answer: Answer) -> str:
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
    return "\n".join([*columns(rows), *([answer["saved"]] if answer["saved"] else [])])


BENCHMARKS: dict[str, Callable[[argparse.Namespace], list[dict[str, object]]]] = {
    "files": bench_files
}
VERB = Verb("bench", "measure this machine", arguments, run, text)
