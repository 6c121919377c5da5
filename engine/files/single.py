"""The path of one file in, a Source out, by the file's first bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .gguf import open_gguf
from .magic import file_kind, refuse, unreadable
from .mapping import FileSource
from .pth import open_pth
from .safetensors import open_safetensors

READERS: dict[str, Callable[[Path], FileSource]] = {
    "safetensors": open_safetensors,
    "pth": open_pth,
    "gguf": open_gguf,
}


def open_single(path: Path, kind: str | None = None) -> FileSource:
    """Open one weights file; `kind` is what `file_kind` said of it, if it was asked already."""
    kind = kind or file_kind(path)
    if kind not in READERS:
        raise refuse("unknown-file" if kind == "json" else kind, path)
    try:
        return READERS[kind](path)
    except OSError as fault:
        raise unreadable(path, fault) from fault
