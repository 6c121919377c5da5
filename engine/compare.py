"""Two checkpoints in, how far each layer of the second is from the first out, rows by rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import Refused
from .layer import Layer
from .measure.errors import LayerError, layer_error
from .model import recognise
from .read import read
from .rotated import all_rotated
from .rows import rows_of
from .source import Source


@dataclass(frozen=True)
class Comparison:
    """Layers of both files, worst first, and what only one of them has."""

    layers: tuple[LayerError, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def worst(self) -> float:
        """The largest relative error."""
        return max((layer.relative_error for layer in self.layers), default=0.0)

    @property
    def mean(self) -> float:
        """The mean relative error over the matrices (a norm or bias says little)."""
        errors = [layer.relative_error for layer in self.layers]
        return sum(errors) / len(errors) if errors else 0.0


def compare(
    first: Source,
    second: Source,
    matrices_only: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
    rotated: int | None = None,
) -> Comparison:
    """Relative error, worst row and cosine of every layer that both hold, under core's names.

    `rotated` as in `read`, for whichever file has int8 rows.
    """
    found = all_rotated([read(source) for source in (first, second)], rotated)
    sides = [{x.key: x for x in recognise(contents).layers} for contents in found]
    common = [key for key in sides[0] if key in sides[1] and _counts(sides[0][key], matrices_only)]
    if not common:
        raise Refused(
            "nothing-to-compare",
            found="no layer of the same name in both files",
            expected="two versions of one model",
            fix="compare a converted file with the file that it was made from",
        )
    total, done, rows = sum(sides[0][key].elements for key in common), 0, []
    for key in common:
        left, right = sides[0][key], sides[1][key]
        rows.append(
            layer_error(left.name, rows_of(left, first), rows_of(right, second), left.shape)
            if left.shape == right.shape
            else _refuse_shapes(left, right)
        )
        done += left.elements
        progress(2 * done, 2 * total)
    rows.sort(key=lambda row: -row.relative_error)
    return Comparison(
        tuple(rows),
        tuple(key for key in sides[0] if key not in sides[1]),
        tuple(key for key in sides[1] if key not in sides[0]),
    )


def _counts(layer: Layer, matrices_only: bool) -> bool:
    return layer.is_matrix or not matrices_only


def _refuse_shapes(left: Layer, right: Layer) -> LayerError:
    raise Refused(
        "shapes-differ",
        found=f"{left.shape} and {right.shape}",
        expected="the same shape in both files",
        fix="compare two versions of one model",
        layer=left.name,
    )
