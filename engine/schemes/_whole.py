"""A reader of a weight's rows in, what a scheme needs to know of all of them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..scheme import Survey

if TYPE_CHECKING:
    import torch

    from ..scheme import Read


def largest(read: Read, n: int, k: int, spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """max |w| as a float32 scalar; NaN and infinity are kept."""
    import torch

    from ...kernels import ops

    found = [ops.amax(read(start, stop)) for start, stop in spans]
    return torch.stack(found).amax() if found else torch.zeros(())


LARGEST = Survey(largest)
