"""How a part is stored in, the codec that reads it and the scheme that holds its codes out."""

from __future__ import annotations

from collections.abc import Mapping

from .codec import Codec
from .layer import Part
from .parts import discover


def all_codecs() -> Mapping[str, Codec]:
    """Every codec by name; no name is a scheme's too."""
    return discover(f"{__package__}.codecs", "CODEC")


def home_of(part: Part) -> str:
    """The scheme that holds the numbers of a part code for code; `none`: floating point alone."""
    codec = all_codecs().get(part.scheme)
    return part.scheme if codec is None else codec.home(part.settings) or "none"
