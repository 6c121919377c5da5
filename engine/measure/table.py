"""Headers and rows in, a table as text out: aligned for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[object]


def text_table(headers: Sequence[str], rows: Sequence[Row]) -> str:
    """Columns two spaces apart, a line under the headers; a column of numbers is aligned right."""
    cells, numeric = _cells(headers, rows)
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in [list(headers), ["-" * width for width in widths], *cells]
    ]
    return "\n".join(lines)


def markdown_table(headers: Sequence[str], rows: Sequence[Row]) -> str:
    """A GitHub table; a column of numbers is aligned right."""
    cells, numeric = _cells(headers, rows)
    rule = ["---:" if right else "---" for right in numeric]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [list(headers), *cells]]
    lines = [escaped[0], rule, *escaped[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(headers: Sequence[str], rows: Sequence[Row]) -> tuple[list[list[str]], list[bool]]:
    """Every cell as one line of text, and which columns hold nothing but numbers."""
    if any(len(row) != len(headers) for row in rows):
        raise ValueError(f"every row needs {len(headers)} cells")
    numeric = [
        bool(rows) and all(_is_number(row[i]) or row[i] is None for row in rows)
        for i in range(len(headers))
    ]
    return [[_cell(value) for value in row] for row in rows], numeric


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    return " ".join(str(value).split())
