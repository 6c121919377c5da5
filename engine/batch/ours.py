"""A path in, whether FuseQuant wrote the file there, from which recipe, and whether all of it is
there, out.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import Refused
from ..files.open import open_source
from ..recipe import METADATA_KEY

_HEAD_BYTES = 1 << 16  # the metadata come first in a header that FuseQuant writes


def recipe_in(path: Path) -> str | None:
    """The recipe in the header of a whole file or folder; None where there is none."""
    try:
        source = open_source(path)
    except Refused:
        return None
    try:
        return source.metadata.get(METADATA_KEY)
    finally:
        source.close()


def is_done(out: Path, recipe: str, size_bytes: int) -> bool:
    """Whether it is there, of this recipe and whole: a header's numbers reach a file's end."""
    return size_at(out) == size_bytes and recipe_in(out) == recipe


def size_at(path: Path) -> int:
    """Bytes of a file or of all files of a folder; 0 where nothing is."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return path.stat().st_size if path.is_file() else 0


def written_by_us(path: Path) -> bool:
    """Whether what stands there may be replaced: FuseQuant's, whole or cut off, or empty."""
    if path.is_dir():
        return not any(path.iterdir()) or recipe_in(path) is not None
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    ours = b'{"__metadata__":{' in head[8:40] and b'"fusequant":"{' in head
    return not head or ours or recipe_in(path) is not None
