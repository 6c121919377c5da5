"""`fusequant inspect`: a checkpoint in, what it is, who can load it and what is wrong out."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from ..options import add_rotated
from ..text import columns, gigabytes
from ..verb import Answer, Verb


def arguments(parser: argparse.ArgumentParser) -> None:
    """`inspect FILE [--rotated [GROUP]]`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a checkpoint file or folder")
    add_rotated(parser)


def run(args: argparse.Namespace) -> Answer:
    """Headers, markers and scales; no weight is read."""
    from ...engine.inspect import inspect

    return inspect(args.file, args.rotated).to_json()


def text(answer: Answer) -> str:
    """Facts first, then each problem with what to do."""
    layers = ", ".join(f"{count} {scheme}" for scheme, count in answer["layers"].items())
    rows = [
        ("family", answer["family"]),
        ("dialect", answer["dialect"]),
        ("size", f"{gigabytes(answer['bytes'])}, {answer['parameters'] / 1e9:.2f} B parameters"),
        ("layers", layers),
        ("loads in", ", ".join(answer["loads_in"]) or "nothing as it is"),
    ]
    lines = [str(answer["file"]), *columns(rows)]
    for problem in answer["problems"]:
        where = f" in {problem['layer']}" if problem["layer"] else ""
        lines.append(f"  problem: {problem['kind']}{where}")
        for fact in ("found", "expected", "fix"):
            lines += textwrap.wrap(
                f"{fact:<9} {problem[fact]}", 96, initial_indent="    ", subsequent_indent=" " * 14
            )
    return "\n".join(lines)


VERB = Verb("inspect", "tell what a file is and what is wrong with it", arguments, run, text)
