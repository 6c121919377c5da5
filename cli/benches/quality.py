"""`fusequant bench quality`: files of equal bytes, ours and others', by how far outputs move."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..bench import Bench, Rows
from ..text import columns, gigabytes


def arguments(parser: argparse.ArgumentParser) -> None:
    """`bench quality [--tools DIR] [--model NAME]... [--folder DIR]`."""
    parser.add_argument(
        "--tools",
        type=Path,
        metavar="DIR",
        help="the bin folder where convert_to_quant and comfy-quants are installed",
    )
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME", help="one model only; repeatable"
    )
    parser.add_argument("--folder", type=Path, help="where the files are made (default: temporary)")


def measure(args: argparse.Namespace) -> Rows:
    """Every file of every model."""
    from ...engine.bench.quality import bench_quality
    from ...engine.files.writer import unwritable

    def tell(line: str) -> None:
        sys.stderr.write(f"  {line}\n")

    place = args.folder or Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            rows = bench_quality(Path(folder), args.tools, tell, args.model)
    except OSError as fault:
        raise unwritable(place, fault) from fault
    return [row.to_json() for row in rows]


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Which versions the other files are from, and what was hoped for."""
    from importlib.metadata import PackageNotFoundError, version

    from ...engine.bench.foreign import versions
    from ...engine.bench.quality import GOAL, SEED

    found = versions(args.tools)
    with contextlib.suppress(PackageNotFoundError):
        found["comfy-kitchen"] = version("comfy-kitchen")
    return {"seed": SEED, "goal": GOAL, "versions": found}


def text(found: Rows) -> str:
    """Each model: every file by its bytes, ours with the ratio to the best other one."""
    lines: list[str] = []
    for model in dict.fromkeys(row["model"] for row in found):
        rows = [("who", "what", "size", "output error", "of the best other in as many bytes")]
        own = [row for row in found if row["model"] == model]
        rows += [_line(row) for row in sorted(own, key=lambda row: row.get("bytes") or 0)]
        lines += [model, *columns(rows)]
    return "\n".join(lines)


def _line(row: Any) -> tuple[str, str, str, str, str]:
    if "why_not" in row:
        return row["who"], row["what"], "", "", row["why_not"]
    ratio = f"{row['ratio']:.2f} of {row['best']}" if "ratio" in row else ""
    size, error = gigabytes(row["bytes"]), f"{row['output_error']:.5f}"
    return row["who"], row["what"], size, error, ratio


BENCH = Bench(
    "quality",
    "output error at equal bytes, beside other tools",
    arguments,
    measure,
    text,
    settings,
)
