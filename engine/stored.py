"""How a layer is stored in, the codec that reads it and the scheme that holds its codes out."""

from __future__ import annotations

from collections.abc import Mapping

from .codec import Codec
from .layer import Layer, Part
from .parts import discover
from .scheme import Tensor
from .scheme_names import schemes

# one scale for each of several weights is one scale for each row of what they are joined to
_ROWS_OF = {"fp8": "fp8_row"}


def all_codecs() -> Mapping[str, Codec]:
    """Every codec by name; no name is a scheme's too."""
    return discover(f"{__package__}.codecs", "CODEC")


def home_of(part: Part) -> str:
    """The scheme that holds the numbers of a part code for code; `none`: floating point alone."""
    codec = all_codecs().get(part.scheme)
    return part.scheme if codec is None else codec.home(part.settings) or "none"


def row_step(layer: Layer) -> int:
    """Rows that are read together: the largest step of the codecs of a layer's parts."""
    found = (all_codecs().get(part.scheme) for part in layer.parts)
    return max(1 if codec is None else codec.row_step for codec in found)


def held_by(layer: Layer) -> str:
    """The scheme that holds a whole layer code for code, its parts one below the other; or `none`.

    Joined parts must agree on it and on their settings, and be cut where its scales are.
    """
    homes = {home_of(part) for part in layer.parts}
    home = homes.pop()
    if homes or home == "none" or not layer.is_matrix:
        return "none"
    if layer.is_whole:
        return home
    if any(dict(part.settings) != dict(layer.parts[0].settings) for part in layer.parts):
        return "none"
    scheme = schemes()[home]
    if isinstance(scheme.granularity, Tensor):
        one_scale = len({part.tensors.get("scale") for part in layer.parts}) == 1
        return home if one_scale else _ROWS_OF.get(home, "none")
    n, k = layer.shape
    if set(scheme.pieces(n, k, layer.dtype)) - set(scheme.row_axis):
        return "none"  # a number for the whole weight: each part has its own
    step = scheme.row_step
    return home if step == 1 or all(_cut_at(part, step) for part in layer.parts) else "none"


def _cut_at(part: Part, step: int) -> bool:
    """The rows of a part are known and begin and end between two of the scheme's tiles."""
    return part.rows is not None and not any(row % step for row in part.rows)
