"""A reader of a layer's rows in, a reader of some of them out, and back."""

from __future__ import annotations

import torch

from ..rows import RowReader

Rows = tuple[int, int]


def part_of(reader: RowReader, rows: Rows) -> RowReader:
    """reader of rows [first, last) of a layer, counted from 0."""
    first = rows[0]
    return lambda start, stop: reader(first + start, first + stop)


def put_back(reader: RowReader, changed: RowReader, rows: Rows) -> RowReader:
    """reader of the whole layer: rows [first, last) from `changed`, the others from `reader`."""
    first, last = rows

    def read(start: int, stop: int) -> torch.Tensor:
        low, high = max(start, first), min(stop, last)
        if low >= high:
            return reader(start, stop)
        inside = changed(low - first, high - first)
        if (low, high) == (start, stop):
            return inside
        before = [reader(start, low)] if start < low else []
        after = [reader(high, stop)] if high < stop else []
        return torch.cat([*before, inside, *after])

    return read


def swapped(reader: RowReader, count: int) -> RowReader:
    """Reader of `count` rows with its halves exchanged: scale, shift and shift, scale."""
    half = count // 2

    def read(start: int, stop: int) -> torch.Tensor:
        found = []
        if start < half:
            found.append(reader(start + half, min(stop, half) + half))
        if stop > half:
            found.append(reader(max(start, half) - half, stop - half))
        return found[0] if len(found) == 1 else torch.cat(found)

    return read
