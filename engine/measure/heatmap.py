"""The error of every layer in, a heat map out: blocks from left to right, kinds of layer down."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .chart import INK, NO_MATPLOTLIB, PALE
from .errors import LayerError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLOCK = re.compile(r"^(?P<stack>.*?)\.?(?P<index>\d+)\.(?P<kind>.+)$")
CELL_IN, LEFT_IN, BOTTOM_IN, TOP_IN, RIGHT_IN = 0.26, 2.6, 0.75, 0.55, 1.2
LEAST_WIDTH_IN = 7.0
DECADES = 2  # of the color scale: errors below a hundredth of the largest look alike


def place_of(name: str) -> tuple[str, int, str]:
    """(stack, block, kind): `double_blocks.3.img_mlp.0` -> (`double_blocks`, 3, `img_mlp.0`).

    A layer outside the blocks is its own kind of block 0 of the stack "".
    """
    found = _BLOCK.match(name)
    if found is None:
        return "", 0, name
    return found["stack"], int(found["index"]), found["kind"]


def grid(layers: Sequence[LayerError]) -> tuple[list[str], list[str], list[list[float]]]:
    """(kinds, blocks, errors[kind][block]); NaN where a block has no such layer."""
    places = {layer.name: place_of(layer.name) for layer in layers}
    columns = sorted({(stack, block) for stack, block, _ in places.values()})
    kinds = list(dict.fromkeys(f"{stack}|{kind}" for stack, _, kind in sorted(places.values())))
    values = [[math.nan] * len(columns) for _ in kinds]
    for layer in layers:
        stack, block, kind = places[layer.name]
        row, column = kinds.index(f"{stack}|{kind}"), columns.index((stack, block))
        values[row][column] = layer.relative_error
    names = [f"{stack}.{block}".strip(".") for stack, block in columns]
    return [kind.partition("|")[2] for kind in kinds], names, values


def heatmap(layers: Sequence[LayerError], title: str, note: str = "") -> Figure | str:
    """A figure, or the reason why there is none. Errors are in per cent on a logarithmic scale."""
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ImportError as error:
        return NO_MATPLOTLIB.format(error)
    kinds, blocks, values = grid(layers)
    percent = [[100 * value for value in row] for row in values]
    shown = [value for row in percent for value in row if math.isfinite(value) and value > 0]
    if not shown:
        return "no chart: every layer is equal to its reference"
    width = max(LEAST_WIDTH_IN, LEFT_IN + RIGHT_IN + CELL_IN * len(blocks))
    height = TOP_IN + BOTTOM_IN + CELL_IN * len(kinds)
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    axes = figure.add_axes(
        (LEFT_IN / width, BOTTOM_IN / height,
         1 - (LEFT_IN + RIGHT_IN) / width, 1 - (TOP_IN + BOTTOM_IN) / height)
    )  # fmt: skip
    top = max(shown)
    norm = LogNorm(max(min(shown), top / 10**DECADES) * 0.999, top * 1.001)
    image = axes.imshow(percent, cmap="cividis", norm=norm, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(kinds)), kinds, fontsize=8, color=INK)
    step = -(-len(blocks) // 24)
    axes.set_xticks(range(0, len(blocks), step), blocks[::step], fontsize=7, color=INK, rotation=90)
    axes.set_facecolor("#eeeeee")
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.01)
    bar.set_label("relative error, %", fontsize=8, color=PALE)
    bar.ax.tick_params(labelsize=7)
    figure.text(0.01, 1 - 0.12 / height, title, fontsize=11, fontweight="bold", color=INK, va="top")
    if note:
        figure.text(0.01, 0.06 / height, note, fontsize=7.5, color=PALE, va="bottom")
    return figure
