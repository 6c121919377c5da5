"""A replaced parameter: W becomes the file's tensor, whatever the strength (unless it is 0)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..adapter import Adapter, Misfit, Operands, Shape, Shapes, width

if TYPE_CHECKING:
    import torch

    from ...rows import RowReader


def fits(shapes: Shapes, shape: Shape) -> Misfit | None:
    """As many rows and as many numbers as the parameter."""
    stored = shapes["set"] or (1,)
    if stored[0] != shape[0] or math.prod(stored) != math.prod(shape):
        return Misfit("lora-shape-mismatch", f"a tensor of shape {shape}")
    return None


def over(operands: Operands, reader: RowReader, shape: Shape) -> RowReader:
    """rows = set[rows]; what was there before is not read."""

    def rows(start: int, stop: int) -> torch.Tensor:
        return operands.rows("set", start, stop).reshape(stop - start, width(shape))

    return rows


ADAPTER = Adapter(name="set", needs=((("set",),),), fits=fits, over=over, order=2)
