"""Sides of a weight in, the sides of its stored codes and block scales out. Knows no torch."""

from __future__ import annotations

ROWS, COLUMNS = 128, 4  # block scales that lie together


def filled(size: int, multiple: int) -> int:
    """The next multiple, `size` itself where it is one."""
    return -(-size // multiple) * multiple


def tiled(n: int, blocks: int) -> tuple[int, int]:
    """The shape of the scales of `n` rows of `blocks` blocks, filled up to whole tiles."""
    return filled(n, ROWS), filled(blocks, COLUMNS)


def cell(offset: int, columns: int) -> tuple[int, int]:
    """(row, block) of the scale at an offset in tiles that are `columns` blocks wide in all."""
    tile, inside = divmod(offset, ROWS * COLUMNS)
    down, across = divmod(tile, columns // COLUMNS)
    row, rest = divmod(inside, 4 * COLUMNS)
    quarter, column = divmod(rest, COLUMNS)
    return down * ROWS + 32 * quarter + row, across * COLUMNS + column
