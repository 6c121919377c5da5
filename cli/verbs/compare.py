"""`fusequant compare`: two files in, the error of every layer out."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from ..options import add_rotated
from ..progress import Bar
from ..text import columns
from ..verb import Answer, Verb

SHOWN = 15


def arguments(parser: argparse.ArgumentParser) -> None:
    """`compare A B [--rotated [GROUP]]`."""
    parser.add_argument("first", type=Path, metavar="A", help="the reference")
    parser.add_argument("second", type=Path, metavar="B", help="the version to judge")
    parser.add_argument("--all", action="store_true", help="norms and biases too")
    add_rotated(parser)


def run(args: argparse.Namespace) -> Answer:
    """Every common layer, worst first."""
    from ...engine.files.open import open_source

    first, second = open_source(args.first), open_source(args.second)
    from ...engine.compare import compare

    bar = Bar("compare", quiet=args.json)
    try:
        found = compare(first, second, not args.all, bar, args.rotated)
    finally:
        bar.close()
        first.close()
        second.close()
    return {
        "layers": [layer.to_json() for layer in found.layers],
        "worst": _finite(found.worst),
        "mean": _finite(found.mean),
        "only_in_a": list(found.only_first),
        "only_in_b": list(found.only_second),
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.5f}"


def text(answer: Answer) -> str:
    """The worst layers as a table."""
    rows = [("layer", "error", "worst row", "cosine")]
    for layer in answer["layers"][:SHOWN]:
        numbers = [layer[name] for name in ("relative_error", "worst_row", "cosine")]
        rows.append((layer["name"], *map(_number, numbers)))
    more = len(answer["layers"]) - SHOWN
    head = f"mean {_number(answer['mean'])}, worst {_number(answer['worst'])}"
    lines = [head, *columns(rows)]
    if more > 0:
        lines.append(f"  and {more} layers with less error")
    for side in ("a", "b"):
        if answer[f"only_in_{side}"]:
            lines.append(f"  only in {side.upper()}: {len(answer[f'only_in_{side}'])} tensors")
    return "\n".join(lines)


VERB = Verb(
    "compare", "tell how far one file is from another, layer by layer", arguments, run, text
)
