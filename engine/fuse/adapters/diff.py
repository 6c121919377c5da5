"""A full difference: W + strength * diff, for weights, biases, norms and modulation tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..adapter import Adapter, Misfit, Operands, Shape, Shapes, width

if TYPE_CHECKING:
    import torch

    from ...rows import RowReader


def fits(shapes: Shapes, shape: Shape) -> Misfit | None:
    """As many rows and as many numbers as the parameter."""
    stored = shapes["diff"] or (1,)
    if stored[0] != shape[0] or math.prod(stored) != math.prod(shape):
        return Misfit("lora-shape-mismatch", f"a difference of shape {shape}")
    return None


def over(operands: Operands, reader: RowReader, shape: Shape) -> RowReader:
    """rows += strength * diff[rows], read as they are needed: it is as large as the parameter."""

    def rows(start: int, stop: int) -> torch.Tensor:
        change = operands.rows("diff", start, stop).reshape(stop - start, width(shape))
        return reader(start, stop).add_(change, alpha=operands.strength)

    return rows


ADAPTER = Adapter(name="diff", needs=((("diff",),),), fits=fits, over=over, order=1)
