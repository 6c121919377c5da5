"""A model and a choice for each layer in, everything that its new file holds out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from .fuse.lora import Fused
from .layer import Layer
from .model import Model
from .outputs import Output, output_of
from .plan import Choice
from .repairable import mend_layer, plain_codes


def outputs_of(
    model: Model,
    choices: Sequence[Choice],
    fused: Fused,
    input_scales: Mapping[str, float] = MappingProxyType({}),
) -> tuple[Output, ...]:
    """The layers of the new file for these choices, and what else is in a full checkpoint.

    `input_scales`: of a calibration, by layer name.
    """
    prefix, scales = model.written_prefix, input_scales
    return (
        *(
            output_of(c, c.layer.key in fused.changes, prefix, scales.get(c.layer.name))
            for c in choices
        ),
        *(output_of(_beside(layer), touched=False) for layer in model.others),
    )


def _beside(layer: Layer) -> Choice:
    """A layer outside the model: as it is stored; what no format holds becomes floating point."""
    mended = mend_layer(plain_codes(layer)).choice
    return replace(mended, why="not part of the model")
