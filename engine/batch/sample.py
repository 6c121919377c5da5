"""A prepared conversion and the file that came of it in, how far sampled rows are off out.

The reference is the same as the converter's: the source's rows in float32 with the LoRAs added.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...kernels.registry import use_backend
from ..files.open import open_source
from ..layer import Layer
from ..measure.errors import LayerError, layer_error
from ..model import recognise
from ..outputs import Output
from ..pipeline import Prepared, job_of
from ..read import read
from ..rows import RowReader, rows_of
from ..stream import single_threaded_torch

LAYERS = 8
ELEMENTS = 1 << 19  # of a layer: a few hundred rows from its middle


def sampled_error(prepared: Prepared, made: Path) -> dict[str, object] | None:
    """{mean, worst, layer} of the relative errors; None where nothing was quantized."""
    quantized = [
        output
        for output in prepared.outputs
        if output.choice.scheme != "none"
        and not output.as_stored
        and output.choice.why != "not part of the model"
    ]
    if not quantized:
        return None
    source = open_source(made)
    try:
        written = {layer.key: layer for layer in recognise(read(source)).layers}
        with single_threaded_torch(), use_backend("reference"):
            errors = [
                _error(prepared, output, rows_of(written[output.choice.layer.key], source))
                for output in _spread(quantized)
                if output.choice.layer.key in written
            ]
    finally:
        source.close()
    if not errors:
        return None
    worst = max(errors, key=lambda error: error.relative_error)
    mean = sum(error.relative_error for error in errors) / len(errors)
    return {"mean": mean, "worst": worst.relative_error, "layer": worst.name}


def _spread(outputs: Sequence[Output]) -> list[Output]:
    """The first, the last and what lies evenly between them."""
    count = min(LAYERS, len(outputs))
    last = len(outputs) - 1
    return [outputs[round(i * last / max(1, count - 1))] for i in range(count)]


def _error(prepared: Prepared, output: Output, written: RowReader) -> LayerError:
    layer = output.choice.layer
    first, last = _middle(layer)
    wanted = job_of(prepared, output).rows()
    return layer_error(
        layer.name,
        lambda start, stop: wanted(first + start, first + stop),
        lambda start, stop: written(first + start, first + stop),
        (last - first, *layer.shape[1:]),
    )


def _middle(layer: Layer) -> tuple[int, int]:
    """Rows [first, last) that hold about ELEMENTS numbers; all of a small layer."""
    count = min(layer.shape[0], max(1, ELEMENTS // max(1, layer.elements // layer.shape[0])))
    first = (layer.shape[0] - count) // 2
    return first, first + count
