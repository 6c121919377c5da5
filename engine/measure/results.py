"""Measured rows in, a JSON result file out, and back; tables and charts are made from these."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import Refused

VERSION = 1


@dataclass(frozen=True)
class Result:
    """One run of one benchmark: what was measured, when (YYYY-MM-DD), of which commit, on what."""

    benchmark: str
    date: str
    rows: Sequence[Mapping[str, object]]
    hardware: Mapping[str, object]
    commit: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


def write_result(folder: str | Path, result: Result) -> Path:
    """Write `<date>-<benchmark>-<gpu or cpu>.json` into the folder and return its path."""
    gpu = result.hardware.get("gpu")
    device = str(gpu.get("name", "gpu")) if isinstance(gpu, Mapping) else "cpu"
    stem = re.sub(r"[^a-z0-9.]+", "-", f"{result.date}-{result.benchmark}-{device}".lower())
    return write_as(Path(folder) / f"{stem.strip('-')}.json", result)


def write_as(path: str | Path, result: Result) -> Path:
    """Write a result under a name of your own and return its path."""
    path = Path(path)
    text = json.dumps({"version": VERSION, **vars(result)}, indent=1, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def read_result(path: str | Path) -> Result:
    """Read a file that `write_result` made."""
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _refused(path, str(error)) from error
    if not isinstance(facts, dict) or facts.pop("version", None) != VERSION:
        raise _refused(path, "no result of this version")
    try:
        return Result(**facts)
    except TypeError as error:
        raise _refused(path, str(error)) from error


def _refused(path: str | Path, found: str) -> Refused:
    return Refused(
        "not-a-result",
        found=f"{Path(path).name}: {found}",
        expected="a JSON file written by `fusequant bench`",
        fix="run the benchmark again.",
    )
