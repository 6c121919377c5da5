"""A path in, a Source out: a file is what its first bytes say, a folder what lies in it."""

from __future__ import annotations

import os
from pathlib import Path

from ..source import Source
from .calibration import calibrated
from .folder import open_folder
from .magic import file_kind
from .sharded import open_index
from .single import open_single


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open the checkpoint at `path`, a file or a folder. Headers only; torch is not imported."""
    where = Path(path)
    if os.path.isdir(where):
        return calibrated(open_folder(where))
    kind = file_kind(where)
    return calibrated(open_index(where) if kind == "json" else open_single(where, kind))
