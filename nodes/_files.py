"""The name of a model file in, a text that changes with its content out."""

from __future__ import annotations

from pathlib import Path

from ..engine.errors import Refused
from ..host import paths


def stamp(kind: str, name: str) -> str:
    """Sizes and dates of a file, or of the files of a folder; "" where it is gone."""
    try:
        where = paths.find(kind, name)
    except Refused:
        return ""
    files = sorted(where.rglob("*")) if where.is_dir() else [where]
    return ";".join(_stamp(file) for file in files if file.is_file())


def _stamp(file: Path) -> str:
    found = file.stat()
    return f"{file.name} {found.st_size} {found.st_mtime_ns}"
