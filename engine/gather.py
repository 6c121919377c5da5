"""Scales of one run of rows after another in, one whole tensor for each role out.

The whole is allocated once: small tensors kept between large temporaries hold the heap open, and
the private memory of a conversion grows with every chunk.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .scheme import Scheme
from .tensors import TensorSpec


class Gathered:
    """Everything that a scheme stores for a layer beside its codes."""

    def __init__(self, scheme: Scheme, specs: Mapping[str, TensorSpec]) -> None:
        self._axes, self._specs = scheme.row_axis, specs
        self._next: dict[str, int] = {}
        self.tensors: dict[str, torch.Tensor] = {}

    def add(self, pieces: Mapping[str, torch.Tensor]) -> None:
        """The pieces of the next run of rows; a role without a row axis comes whole."""
        for role, piece in pieces.items():
            axis = self._axes.get(role)
            if axis is None or piece.dim() <= axis:
                self.tensors[role] = piece.cpu()
                continue
            if role not in self.tensors:
                self.tensors[role] = self._whole(role, piece, axis)
            start, size = self._next.get(role, 0), piece.shape[axis]
            self.tensors[role].narrow(axis, start, size).copy_(piece)
            self._next[role] = start + size

    def _whole(self, role: str, piece: torch.Tensor, axis: int) -> torch.Tensor:
        shape = list(piece.shape)
        beside = piece.numel() // max(1, shape[axis])
        shape[axis] = self._specs[role].elements // max(1, beside)
        return torch.empty(shape, dtype=piece.dtype)
