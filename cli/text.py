"""Numbers and rows in, aligned text for a terminal out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def gigabytes(size_bytes: float) -> str:
    """`12.35 GB`, or MB and KB for what is small."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size_bytes >= 0.1 * factor:
            return f"{size_bytes / factor:.2f} {unit}"
    return f"{size_bytes:.0f} B"


def duration(seconds: float) -> str:
    """`8 s`, `12 min`, `3 h 05 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def columns(rows: Sequence[Sequence[object]], indent: str = "  ") -> list[str]:
    """Rows with every column as wide as its widest cell; the last one is free."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        return []
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]) - 1)]
    return [
        indent + "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]])
        for row in cells
    ]


def counted_reasons(layers: Iterable[Mapping[str, Any]]) -> list[str]:
    """`12 x none: final layer...`, the commonest first."""
    counts = Counter((layer["scheme"], layer["why"]) for layer in layers)
    rows = [(count, scheme, why) for (scheme, why), count in counts.most_common()]
    return columns(rows)


def lora_lines(loras: Sequence[Mapping[str, Any]]) -> list[str]:
    """What became of each LoRA, unmatched modules named."""
    lines = []
    for lora in loras:
        lines.append(f"  {lora['file']}: {lora['matched']} modules fused")
        missing = lora["unmatched"]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            lines.append(f"    {len(missing)} match no layer: {shown}")
    return lines


def warning_lines(warnings: Sequence[str]) -> list[str]:
    """One line each."""
    return [f"  warning: {warning}" for warning in warnings]
