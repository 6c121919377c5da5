"""optimum-quanto's qint4 and qint2 in, numbers out: codes packed across groups, not inside them.

Group g of a weight, counted over its rows, lies in row g % p of the packed bytes (p, size), in
bits `bits * (g // p)` and up. w = scale * q - shift, or scale * (q - shift) where shift is whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._groups import Groups, grouped, whole

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors


def _codes(packed: torch.Tensor, bits: int, first: int, last: int) -> torch.Tensor:
    """Codes of groups [first, last): (last - first, size) uint8."""
    import torch

    p = packed.shape[0]
    found = []
    for block in range(first // p, -(-last // p)):
        low, high = max(first, block * p), min(last, (block + 1) * p)
        rows = packed[low - block * p : high - block * p]
        found.append((rows >> (bits * block)) & ((1 << bits) - 1))
    return found[0] if len(found) == 1 else torch.cat(found)


def decode(tensors: Tensors, settings: Settings, start: int, stop: int) -> Groups:
    """Rows [start, stop): the groups of a row follow each other."""
    size, k = whole(settings, "group"), whole(settings, "inputs")
    each = k // size
    packed = tensors["weight"].reshape(tensors["weight"].shape[0], size)
    codes = _codes(packed, whole(settings, "bits"), start * each, stop * each)
    scale, shift = (
        tensors[role].reshape(-1)[start * each : stop * each].reshape(-1, each)
        for role in ("scale", "shift")
    )
    codes = codes.reshape(stop - start, k)
    if shift.dtype.is_floating_point:
        return Groups(codes, scale, size, offset=-shift)
    return Groups(codes, scale, size, zero=shift)


CODEC = grouped("quanto_bits", "qint4 and qint2", "optimum-quanto", 4.25, decode)
