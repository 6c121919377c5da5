"""`fusequant bench order`: what each order of fusing, quantizing and offloading costs and keeps."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from ..bench import Bench, Rows
from ..options import count_argument
from ..text import columns, gigabytes


def arguments(parser: argparse.ArgumentParser) -> None:
    """`bench order [--scheme S]... [--rounds N]`."""
    parser.add_argument("--scheme", action="append", metavar="S", help="only this one; repeat")
    parser.add_argument("--rounds", type=count_argument, default=5)
    parser.add_argument("--folder", type=Path, help="where the files are made (default: temporary)")


def measure(args: argparse.Namespace) -> Rows:
    """All eight strategies, in turns."""
    from ...engine.bench.order import bench_order
    from ...engine.files.writer import unwritable
    from ...engine.scheme_names import resolve

    def tell(line: str) -> None:
        sys.stderr.write(f"  {line}\n")

    schemes = [resolve(name)[0] for name in args.scheme] if args.scheme else None
    place = args.folder or Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            rows = bench_order(Path(folder), schemes, args.rounds, tell=tell)
    except OSError as fault:
        raise unwritable(place, fault) from fault
    return [row.to_json() for row in rows]


def text(found: Rows) -> str:
    """One line a strategy and scheme."""
    from ...engine.bench.order import NOTE

    head = (
        "scheme", "strategy", "load s", "step s", "new strength s", "old one s", "private peak",
        "on the device", "weight error", "output error",
    )  # fmt: skip
    rows = [head]
    for row in found:
        peak = row["peak_bytes"]
        rows.append(
            (
                row["scheme"],
                row["strategy"],
                f"{row['load_s']:.2f}",
                f"{row['step_s']:.3f}",
                f"{row['first_switch_s']:.3f}",
                f"{row['switch_s']:.3f}",
                gigabytes(peak) if peak is not None else "not measured",
                gigabytes(row["bytes"]),
                f"{row['weight_error']:.5f}",
                f"{row['output_error']:.5f}",
            )
        )
    return "\n".join([*columns(rows), NOTE])


def chart(found: Rows, path: Path) -> str | None:
    """Output error by scheme and order."""
    from ...engine.bench.order import NOTE, error_chart
    from ...engine.measure.picture import write_png

    figure = error_chart(found, NOTE)
    if isinstance(figure, str):
        return figure
    write_png(figure, path)
    return None


BENCH = Bench(
    "order",
    "fusing, quantizing and offloading in eight orders: time, memory, error",
    arguments,
    measure,
    text,
    lambda args: {"rounds": args.rounds, "schemes": args.scheme or "all"},
    chart,
)
