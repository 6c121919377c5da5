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
    """The recipe in the header of a whole file; None where there is none."""
    try:
        source = open_source(path)
    except Refused:
        return None
    try:
        return source.metadata.get(METADATA_KEY)
    finally:
        source.close()


def is_done(out: Path, recipe: str, size_bytes: int) -> bool:
    """Whether the file is there, of this recipe and whole: a header's numbers reach its end."""
    return out.is_file() and out.stat().st_size == size_bytes and recipe_in(out) == recipe


def written_by_us(path: Path) -> bool:
    """Whether a file that may be replaced stands there: FuseQuant's, whole or cut off, or empty."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    ours = b'{"__metadata__":{' in head[8:40] and b'"fusequant":"{' in head
    return not head or ours or recipe_in(path) is not None
