"""Rows of numbers in, a bar chart out; without matplotlib, the reason why there is none."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .picture import write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[tuple[str, Mapping[str, float]]]
NO_MATPLOTLIB = "no chart: {}; install matplotlib to get one"

# Okabe and Ito's colors, told apart by every kind of eye; blue first, then orange, green, ...
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
INK, PALE, GRID = "#222222", "#6b6b6b", "#e4e4e4"
LABEL_CHARACTERS = 38
WIDTH_IN, BAR_IN, GAP_IN = 9.0, 0.27, 0.22
TOP_IN, LEGEND_IN, BOTTOM_IN, NOTE_LINE_IN = 0.52, 0.32, 0.58, 0.19


def bars(path: str | Path, title: str, rows: Rows, unit: str = "", note: str = "") -> str | None:
    """Write `bars_figure` as a PNG file. Returns None, or the reason why no chart could be made."""
    figure = bars_figure(title, rows, unit, note)
    if isinstance(figure, str):
        return figure
    write_png(figure, path)
    return None


def bars_figure(title: str, rows: Rows, unit: str = "", note: str = "") -> Figure | str:
    """Horizontal bars, one group a row and one color a series; or why there are none.

    `rows` is [(label, {series: value})]; a series may be absent from a row, a value that is not
    finite is written as `n/a`. `unit` goes under the axis, `note` in small print below.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        return NO_MATPLOTLIB.format(error)
    if not rows:
        return "no chart: there is nothing to show"
    series = list(dict.fromkeys(name for _, values in rows for name in values))
    inner = len(rows) * (max(1, len(series)) * BAR_IN + GAP_IN)
    top = TOP_IN + (LEGEND_IN if len(series) > 1 else 0.0)
    bottom = BOTTOM_IN + NOTE_LINE_IN * len(note.splitlines())
    height = top + inner + bottom
    figure = Figure(figsize=(WIDTH_IN, height), dpi=160, facecolor="white")
    characters = min(LABEL_CHARACTERS, max(len(label) for label, _ in rows))
    left = 0.04 + 0.0092 * characters
    axes = figure.add_axes((left, bottom / height, 0.965 - left, inner / height))
    _draw_bars(axes, rows, series)
    _dress(axes, rows, unit)
    if len(series) > 1:
        _legend(axes, len(series))
    _write_texts(figure, title, note, height)
    return figure


def _legend(axes: Axes, columns: int) -> None:
    """The colors of the series in one line above the bars."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, frameon=False, fontsize=9,
        labelcolor=INK, handlelength=1.0, handleheight=1.0, columnspacing=1.4, borderaxespad=0.3,
    )  # fmt: skip


def _draw_bars(axes: Axes, rows: Rows, series: Sequence[str]) -> None:
    """Bars from the top down, each with its value at its end."""
    group = len(series) * BAR_IN + GAP_IN
    values = [v for _, row in rows for v in row.values() if math.isfinite(v)]
    longest = max([abs(v) for v in values], default=0.0) or 1.0
    shown = set()
    for i, (_, row) in enumerate(rows):
        top = i * group + (group - len(row) * BAR_IN) / 2
        for j, name in enumerate(name for name in series if name in row):
            value = row[name]
            drawn = value if math.isfinite(value) else 0.0
            place = series.index(name)
            axes.barh(
                top + (j + 0.5) * BAR_IN,
                drawn,
                height=BAR_IN * 0.86,
                color=COLORS[place % len(COLORS)],
                label=None if name in shown else name,
                zorder=3,
            )
            shown.add(name)
            axes.text(
                max(drawn, 0.0) + 0.008 * longest,
                top + (j + 0.5) * BAR_IN,
                _digits(value),
                va="center",
                ha="left",
                fontsize=8.5,
                color=INK,
                zorder=2,  # over the grid, under the next bar
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
    axes.set_ylim(len(rows) * group, 0)
    axes.set_xlim(min([0.0, *values]) * 1.08, longest * 1.12)


def _dress(axes: Axes, rows: Rows, unit: str) -> None:
    """Labels at the groups, a light grid behind the bars, no frame."""
    low, _ = axes.get_ylim()
    group = low / len(rows)
    axes.set_yticks([(i + 0.5) * group for i in range(len(rows))])
    labels = [textwrap.fill(label, LABEL_CHARACTERS, break_on_hyphens=False) for label, _ in rows]
    axes.set_yticklabels(labels, fontsize=10, color=INK)
    axes.tick_params(axis="y", length=0, pad=7)
    axes.tick_params(axis="x", length=0, labelsize=8.5, labelcolor=PALE)
    axes.grid(axis="x", color=GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color("#b5b5b5")
    axes.set_xlabel(unit, fontsize=9, color=PALE, labelpad=5)


def _write_texts(figure: Figure, title: str, note: str, height: float) -> None:
    figure.text(
        0.025, 1 - 0.17 / height, title, fontsize=13, fontweight="bold", color=INK, va="top"
    )
    if note:
        figure.text(0.025, 0.1 / height, note, fontsize=8, color=PALE, va="bottom", linespacing=1.3)


def _digits(value: float) -> str:
    """Three significant digits without an exponent where that reads well; `n/a` for no number."""
    if not math.isfinite(value):
        return "n/a"
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        decimals = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.2e}"
