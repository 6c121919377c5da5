"""A file of recipes in, its tables out: TOML in UTF-8, with or without a byte order mark."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from ..errors import Refused

LIMIT_BYTES = 16 << 20  # a hundred thousand recipes; more is some other file


def load(path: Path) -> dict[str, Any]:
    """The tables of the file."""
    parser = _parser()
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    except OSError as fault:
        raise Refused(
            "recipes-unreadable",
            found=f"{path}: {fault.strerror or fault}",
            expected="a TOML file with recipes",
            fix="give the path of one, such as RECIPES.toml",
        ) from fault
    if len(data) > LIMIT_BYTES:
        raise _no_toml(path, f"more than {LIMIT_BYTES >> 20} MiB")
    try:
        found: dict[str, Any] = parser.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as fault:
        raise _no_toml(path, str(fault)) from None
    return found


def _parser() -> Any:
    """Python's own parser; before 3.11 there is none, and tomli is the same one."""
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        return importlib.import_module(name)
    except ImportError as fault:
        raise Refused(
            "toml-parser-missing",
            found=f"Python {sys.version_info[0]}.{sys.version_info[1]} without {name}",
            expected="Python 3.11 or newer, or the package tomli",
            fix="pip install tomli",
        ) from fault


def _no_toml(path: Path, why: str) -> Refused:
    return Refused(
        "toml-invalid",
        found=f"{path.name}: {why}",
        expected="TOML with one [[recipe]] table for each file to make",
        fix="correct the file at this place",
    )
