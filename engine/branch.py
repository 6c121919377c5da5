"""What a scheme's linear takes and a low-rank branch in, the sum of both out.

y = linear(x) + (x down.T) up.T, x (..., K), down (R, K), up (N, R). A card that has a kernel for
both adds the branch before the result is written; elsewhere the branch is two thin products more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..kernels.registry import NoBackend
from .scheme import Scheme
from .schemes._storage import full_precision

if TYPE_CHECKING:
    import torch

    from .scheme import Tensors


def linear_with_branch(
    scheme: Scheme,
    x: torch.Tensor,
    tensors: Tensors,
    settings: Mapping[str, object],
    bias: torch.Tensor | None,
    sides: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """y on the backend in force; one that was asked for and has no such kernel gets it added."""
    from ..kernels import ops
    from ..kernels.registry import use_backend

    if x.is_cuda and scheme.branched is not None and not full_precision(settings):
        try:
            return scheme.branched(x, tensors, settings, bias, *sides)
        except NoBackend:
            pass  # the linear alone says what is wrong, if anything is
    y = scheme.linear(x, tensors, settings, bias)
    with use_backend(None):
        return ops.add_low_rank(y, x, *sides)
