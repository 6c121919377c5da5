"""`fusequant bench files`: converting a synthetic file beside the comfy-kitchen loop and `cp`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from ..bench import Bench, Rows
from ..options import count_argument, size_argument
from ..text import columns, gigabytes


def arguments(parser: argparse.ArgumentParser) -> None:
    """`bench files [--gib N] [--rounds N] [--scheme S]...`."""
    parser.add_argument("--gib", type=size_argument, default=4.0, help="size of the source")
    parser.add_argument("--rounds", type=count_argument, default=3)
    parser.add_argument("--scheme", action="append", metavar="S", help="only this one; repeat")
    parser.add_argument("--folder", type=Path, help="where the files are made (default: temporary)")


def measure(args: argparse.Namespace) -> Rows:
    """Every contender, in turns."""
    from ...engine.bench.files import SCHEMES, bench_files
    from ...engine.files.writer import unwritable
    from ...engine.scheme_names import resolve

    def tell(line: str) -> None:
        sys.stderr.write(f"  {line}\n")

    schemes = [resolve(name)[0] for name in args.scheme or SCHEMES]
    place = args.folder or Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            rows = bench_files(Path(folder), int(args.gib * 2**30), args.rounds, schemes, tell)
    except OSError as fault:
        raise unwritable(place, fault) from fault
    return [row.to_json() for row in rows]


def text(found: Rows) -> str:
    """One line a contender, ours beside the loop of the same scheme."""
    loop = {row["scheme"]: row["median_s"] for row in found if row["contender"] == "kitchen"}
    rows = [("scheme", "who", "seconds", "of loop", "private peak", "file", "weight error")]
    for row in found:
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
    return "\n".join(columns(rows))


BENCH = Bench(
    "files",
    "converting a file, beside a plain loop and beside cp",
    arguments,
    measure,
    text,
    lambda args: {"gib": args.gib, "rounds": args.rounds},
)
