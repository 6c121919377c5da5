"""A path in, a Source out: what a file is comes from its first bytes, what a folder is from its contents."""

from __future__ import annotations

import os
from pathlib import Path

from ..source import Source
from .safetensors import open_safetensors


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open the checkpoint at `path`, a file or a folder. Reads headers only; torch is not imported."""
    return open_safetensors(Path(path))
