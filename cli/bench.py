"""A benchmark of the command line: its arguments, the rows it measures, how they read as text."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def no_chart(rows: Rows, path: Path) -> str | None:
    """A benchmark without a picture of its own."""
    return "this benchmark has no chart"


@dataclass(frozen=True)
class Bench:
    """One file in `benches/` each: BENCH.

    `measure(args)` gives the rows of the result file, `settings(args)` what they were made with,
    `chart(rows, path)` writes a PNG and returns None or why there is none.
    """

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    measure: Callable[[argparse.Namespace], Rows]
    text: Callable[[Rows], str]
    settings: Callable[[argparse.Namespace], Mapping[str, object]]
    chart: Callable[[Rows, Path], str | None] = field(default=no_chart)
