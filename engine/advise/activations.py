"""A model in, what the memory of a step depends on in it out.

The Advisor for a picture and VRAM Manager for a latent both predict from this, by `step_bytes`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..devices import NATIVE, rules
from ..layer import Layer
from ..model import Model
from ..place.moments import ANY_FAMILY, BLOCKS
from ..place.step import (
    FOLDED,
    FUSED,
    FUSED_FP8,
    FUSED_FP8_ROW,
    PLAIN,
    PLAIN_TORCH,
    RESIDENT,
    SUMS,
    Matrix,
    Net,
)
from .sides import block_of, widths_of

# products of codes that differ from FUSED, and where sums are written out before they are scaled
ON_CODES = {"int8_convrot": FOLDED, "fp8": FUSED_FP8, "fp8_row": FUSED_FP8_ROW}
WRITES_SUMS = ("sm_75", "rocm")
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
    second = {name.replace(".0.", ".1.", 1) for name in named if ".0." in name}
    repeated = any(layer.name in second for layer in model.layers)
    hidden, wide = found[blocks.hidden].shape[0], found[blocks.wide].shape[0]
    return Net(blocks, hidden, wide, matrices, repeated)


def held_on(scheme: str, device: str) -> str:
    """The row of WORKING for a scheme on a device class; those of a CPU are by scheme.

    A GPU that multiplies codes has rows of its own, so that nothing that only a CPU does is
    predicted for it; on one that does not the host dequantizes. A scheme without a rule is its own.
    """
    found = rules().get((scheme, device))
    if device == "cpu":
        return scheme
    if found is None or found.support != NATIVE:
        return PLAIN_TORCH.get(scheme, scheme)
    return SUMS if device in WRITES_SUMS else ON_CODES.get(scheme, FUSED)


def in_blocks(scheme: str, device: str) -> Held:
    """A model whose blocks are in a scheme: what is beside them is as the device computes it."""
    plain = PLAIN if device == "cpu" else RESIDENT  # a CPU computes in float32, files are 16 bits
    inside = plain if scheme == PLAIN else held_on(scheme, device)
    return lambda layer: inside if block_of(layer) else plain
