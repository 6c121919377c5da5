"""A model in, what the memory of a step depends on in it out.

The Advisor for a picture and VRAM Manager for a latent both predict from this, by `step_bytes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..devices import NATIVE as ON_CODES
from ..devices import rules
from ..layer import Layer
from ..model import Model
from ..place.moments import ANY_FAMILY, BLOCKS
from ..place.step import NATIVE, PLAIN, RESIDENT, Matrix, Net
from .sides import block_of, widths_of

Held = Callable[[Layer], str]  # a layer in, the row of WORKING by which its weight is held out


def _resident(layer: Layer) -> str:
    return RESIDENT


def net_of(model: Model, held: Held = _resident) -> Net:
    """The blocks, widths and matrices; of a family that nobody counted, the widths alone."""
    blocks = BLOCKS.get(model.family.name, ANY_FAMILY)
    named = set(blocks.layers)
    found = {layer.name: layer for layer in model.layers if layer.name in named}
    if blocks.hidden not in found or blocks.wide not in found:
        return Net(ANY_FAMILY, *widths_of(model))
    matrices = {
        name: Matrix(layer.shape[0], math.prod(layer.shape[1:]), held(layer))
        for name, layer in found.items()
    }
    return Net(blocks, found[blocks.hidden].shape[0], found[blocks.wide].shape[0], matrices)


def held_on(scheme: str, device: str) -> str:
    """The row of WORKING for a scheme on a device class: `native` where codes are multiplied.

    The rows of a CPU are by scheme: its products were measured. A scheme without a rule is its own.
    """
    found = rules().get((scheme, device))
    if device == "cpu" or scheme == PLAIN or found is None:
        return scheme
    return NATIVE if found.support == ON_CODES else scheme


def in_blocks(scheme: str, device: str) -> Held:
    """A model whose blocks are in a scheme: what is beside them is as the device computes it."""
    plain = PLAIN if device == "cpu" else RESIDENT  # a CPU computes in float32, files are 16 bits
    inside = plain if scheme == PLAIN else held_on(scheme, device)
    return lambda layer: inside if block_of(layer) else plain
