"""Two checkpoints in, how far each layer of the second is from the first out, rows by rows.

With LoRAs the first one is the plain model and they belong to the second: layers are compared with
the fused ones, and for each LoRA it is told how much of it the second still has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import Refused
from .fuse.lora import Fused, LoraFile, match
from .layer import Layer
from .measure.delta import LayerDelta, LoraLeft, delta_left, lora_left
from .measure.errors import LayerError, layer_error
from .model import recognise
from .read import read
from .rotated import all_rotated
from .rows import RowReader, rows_of
from .source import Source


@dataclass(frozen=True)
class Comparison:
    """Layers of both files, worst first, and what only one of them has."""

    layers: tuple[LayerError, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    loras: tuple[LoraLeft, ...] = ()

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
    loras: Sequence[LoraFile] = (),
    rotated: int | None = None,
) -> Comparison:
    """Relative error, worst row and cosine of every layer that both hold, under core's names.

    `rotated` as in `read`, for whichever file has int8 rows.
    """
    read_both = all_rotated([read(source) for source in (first, second)], rotated)
    models = [recognise(contents) for contents in read_both]
    sides = [{x.key: x for x in model.layers} for model in models]
    common = [key for key in sides[0] if key in sides[1] and _counts(sides[0][key], matrices_only)]
    if not common:
        raise Refused(
            "nothing-to-compare",
            found="no layer of the same name in both files",
            expected="two versions of one model",
            fix="compare a converted file with the file that it was made from",
        )
    fused = match(loras, models[0]) if loras else Fused()
    total, done, rows = sum(sides[0][key].elements for key in common), 0, []
    deltas: dict[int, list[LayerDelta]] = {at: [] for at in range(len(loras))}
    for key in common:
        left, right = sides[0][key], sides[1][key]
        if left.shape != right.shape:
            raise _shapes_differ(left, right)
        plain, stored = rows_of(left, first), rows_of(right, second)
        reference = fused.reader(left, plain)
        rows.append(layer_error(left.name, reference, stored, left.shape))
        for at, lora in enumerate(loras):
            without = _without(fused, lora, left, plain)
            if without is not None:
                sums = delta_left(without, reference, stored, left.shape)
                deltas[at].append(LayerDelta(left.name, sums))
        done += left.elements
        progress(2 * done, 2 * total)
    rows.sort(key=lambda row: -row.relative_error)
    return Comparison(
        tuple(rows),
        tuple(key for key in sides[0] if key not in sides[1]),
        tuple(key for key in sides[1] if key not in sides[0]),
        tuple(lora_left(Path(lora.path).name, deltas[at]) for at, lora in enumerate(loras)),
    )


def _without(fused: Fused, lora: LoraFile, layer: Layer, plain: RowReader) -> RowReader | None:
    """Rows of a layer with every LoRA but this one; None where this one does not change it."""
    changes = fused.changes.get(layer.key, ())
    others = tuple(change for change in changes if change.file is not lora)
    if len(others) == len(changes):
        return None
    return replace(fused, changes={layer.key: others}).reader(layer, plain)


def _counts(layer: Layer, matrices_only: bool) -> bool:
    return layer.is_matrix or not matrices_only


def _shapes_differ(left: Layer, right: Layer) -> Refused:
    return Refused(
        "shapes-differ",
        found=f"{left.shape} and {right.shape}",
        expected="the same shape in both files",
        fix="compare two versions of one model",
        layer=left.name,
    )
