"""A stored weight and one tensor that a mended file has in, that tensor's numbers out."""

from __future__ import annotations

import math

import torch

from .layer import Part
from .source import Source
from .tensors import TensorSpec, torch_dtype


def respelled(source: Source, part: Part, role: str, spec: TensorSpec) -> torch.Tensor:
    """What `spec` holds: the codes as they lie in the file, the rest in its dtype and shape.

    A weight that was only cast has no scale: it is one; and no zeros: they are none.
    """
    wanted = torch_dtype(spec.dtype)
    if role not in part.tensors:
        filler = torch.zeros(()) if role == "zeros" else torch.ones(())
        return filler.to(wanted).expand(spec.shape)
    stored = source.tensor(part.tensors[role])
    small = stored.dtype.itemsize == wanted.itemsize == 1
    same = stored.dtype == wanted
    if not same:  # one byte is the same byte under another name
        stored = stored.view(wanted) if small else stored.to(wanted)
    if stored.numel() == math.prod(spec.shape):
        stored = stored.reshape(spec.shape)
    return stored.expand(spec.shape)
