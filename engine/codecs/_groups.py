"""Codes of rows in groups of inputs in, their numbers or the pieces of their home scheme out.

w = ((q - zero) * scale + offset) * columns; q (rows, k), columns (k), the others one number for
each run of `size` inputs of a row, (rows, groups). The last group of a row may be shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..codec import Codec

if TYPE_CHECKING:
    import torch

    from ..codec import Settings, Tensors

INT4_GROUP = 128


@dataclass(frozen=True)
class Groups:
    """Decoded rows: `codes` of any integer or float8 dtype, the rest as the module says."""

    codes: torch.Tensor
    scale: torch.Tensor
    size: int
    zero: torch.Tensor | None = None
    offset: torch.Tensor | None = None
    columns: torch.Tensor | None = None


Decode = Callable[["Tensors", "Settings", int, int], Groups]


def whole(settings: Settings, key: str) -> int:
    """A setting that counts something."""
    return int(str(settings[key]))


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes of 1, 2, 4 or 8 bits, lowest first: any integer dtype (..., m) -> uint8 (..., n)."""
    import torch

    if not packed.is_contiguous() or packed.stride(-1) != 1:  # a last size of 1 has any stride
        packed = packed.clone(memory_format=torch.contiguous_format)
    found = packed.view(torch.uint8)
    if bits == 8:
        return found
    each = [(found >> at) & ((1 << bits) - 1) for at in range(0, 8, bits)]
    return torch.stack(each, -1).flatten(-2)


def unpack_rows(packed: torch.Tensor, bits: int, start: int, stop: int) -> torch.Tensor:
    """Codes of rows [start, stop) that int32 words (groups, m) hold along the rows: (rows, groups).

    A word holds 32 / bits rows, the first in its lowest bits.
    """
    each = 32 // bits
    low = start // each
    found = unpack(packed[:, low : -(-stop // each)], bits)
    return found[:, start - low * each : stop - low * each].t()


def _spread(grid: torch.Tensor, size: int, k: int) -> torch.Tensor:
    """(rows, groups) -> float32 that fits (rows, k)."""
    import torch

    numbers = grid.to(torch.float32)
    return numbers if grid.shape[1] == 1 else numbers.repeat_interleave(size, 1)[:, :k]


def numbers(groups: Groups) -> torch.Tensor:
    """The formula of the module in float32: (rows, k)."""
    import torch

    k = groups.codes.shape[1]
    found = groups.codes.to(torch.float32)
    if groups.zero is not None:
        found -= _spread(groups.zero, groups.size, k)
    found *= _spread(groups.scale, groups.size, k)
    if groups.offset is not None:
        found += _spread(groups.offset, groups.size, k)
    if groups.columns is not None:
        found *= groups.columns.to(torch.float32)
    return found


def home(settings: Settings) -> str | None:
    """Where codes can live as they are: 4 bits in groups of whole 128s, any in whole rows.

    `centered`: integers around 0 without zero points and columns; `scale`: its dtype; `offset`, if
    it is there: numbers of that dtype are added, which int4_g128 alone can hold.
    """
    bits, size, k = (whole(settings, key) for key in ("bits", "group", "inputs"))
    if not settings["centered"] or k % size:
        return None
    if bits <= 4 and size % INT4_GROUP == 0 and settings["scale"] in ("BF16", "F16"):
        return "int4_g128"
    return "int8_weight_only" if size == k and "offset" not in settings else None


def pieces(groups: Groups, scheme: str | None) -> dict[str, torch.Tensor]:
    """Centered codes as the scheme of `home` stores them."""
    import torch

    if scheme == "int8_weight_only":
        return {"weight": groups.codes.to(torch.int8), "scale": groups.scale.to(torch.float32)}
    codes = (groups.codes.to(torch.int16) + 8).to(torch.uint8)
    packed = (codes[:, 0::2] | codes[:, 1::2] << 4).view(torch.int8)
    offset = torch.zeros_like(groups.scale) if groups.offset is None else groups.offset
    scale, zeros = (
        each.repeat_interleave(groups.size // INT4_GROUP, 1).t().contiguous()
        for each in (groups.scale, offset)
    )
    return {"weight": packed, "scale": scale, "zeros": zeros}


def grouped(
    name: str, title: str, whose: str, bits: float, decode: Decode, row_step: int = 1
) -> Codec:
    """A codec of what `decode(tensors, settings, start, stop)` finds."""

    def rows(tensors: Tensors, settings: Settings, start: int, stop: int) -> torch.Tensor:
        """The numbers of rows."""
        return numbers(decode(tensors, settings, start, stop))

    def restate(
        tensors: Tensors, settings: Settings, start: int, stop: int
    ) -> dict[str, torch.Tensor]:
        """The same codes as their home stores them."""
        return pieces(decode(tensors, settings, start, stop), home(settings))

    return Codec(name, title, whose, bits, rows, row_step, home, restate)
