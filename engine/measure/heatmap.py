"""The error of every layer in, a heat map out: a panel a stack, blocks from left to right."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .chart import INK, NO_MATPLOTLIB, PALE
from .errors import LayerError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_BLOCK = re.compile(r"^(?P<stack>.*?)\.?(?P<index>\d+)\.(?P<kind>.+)$")
CELL_IN, LEFT_IN, RIGHT_IN = 0.24, 2.3, 1.0
TOP_IN, PANEL_TOP_IN, PANEL_BOTTOM_IN, NOTE_IN = 0.4, 0.3, 0.3, 0.35
LEAST_WIDTH_IN, TICKS = 8.0, 20
DECADES = 2  # of the color scale: errors below a hundredth of the largest look alike
OUTSIDE = "outside the blocks"
Box = tuple[float, float, float, float]  # left, bottom, width, height


def place_of(name: str) -> tuple[str, int, str]:
    """(stack, block, kind): `double_blocks.3.img_mlp.0` -> (`double_blocks`, 3, `img_mlp.0`).

    A layer outside the blocks is its own kind of block 0 of the stack "".
    """
    found = _BLOCK.match(name)
    if found is None:
        return "", 0, name
    return found["stack"], int(found["index"]), found["kind"]


@dataclass(frozen=True)
class Panel:
    """One stack of blocks: `errors[kind][block]`, NaN where a block has no such layer."""

    stack: str
    kinds: tuple[str, ...]
    blocks: tuple[int, ...]
    errors: tuple[tuple[float, ...], ...]


def panels(layers: Sequence[LayerError]) -> list[Panel]:
    """The layers by stack, in the order in which the names sort; those outside the blocks last."""
    stacks: dict[str, dict[tuple[str, int], float]] = {}
    for layer in layers:
        stack, block, kind = place_of(layer.name)
        stacks.setdefault(stack, {})[kind, block] = layer.relative_error
    found = []
    for stack, cells in sorted(stacks.items(), key=lambda item: (not item[0], item[0])):
        kinds = tuple(sorted({kind for kind, _ in cells}))
        blocks = tuple(sorted({block for _, block in cells}))
        rows = tuple(tuple(cells.get((kind, b), math.nan) for b in blocks) for kind in kinds)
        found.append(Panel(stack, kinds, blocks, rows))
    return found


def heatmap(layers: Sequence[LayerError], title: str, note: str = "") -> Figure | str:
    """A figure, or the reason why there is none. Errors are in per cent on a logarithmic scale."""
    try:
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ImportError as error:
        return NO_MATPLOTLIB.format(error)
    errors = [layer.relative_error for layer in layers]
    shown = [100 * error for error in errors if math.isfinite(error) and error > 0]
    if not shown:
        return "no chart: every layer is equal to its reference"
    found = panels(layers)
    width = LEFT_IN + RIGHT_IN + CELL_IN * max(len(panel.blocks) for panel in found)
    width = max(LEAST_WIDTH_IN, width)
    heights = [PANEL_TOP_IN + PANEL_BOTTOM_IN + CELL_IN * len(panel.kinds) for panel in found]
    height = TOP_IN + sum(heights) + NOTE_IN
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    top = max(shown)
    norm = LogNorm(max(min(shown), top / 10**DECADES) * 0.999, top * 1.001)
    under = height - TOP_IN
    for panel, size in zip(found, heights, strict=True):
        inner = CELL_IN * len(panel.kinds)
        box = (LEFT_IN, under - PANEL_TOP_IN - inner, width - LEFT_IN - RIGHT_IN, inner)
        image = _draw(figure.add_axes(_relative(box, width, height)), panel, norm)
        under -= size
    bar = (width - RIGHT_IN + 0.15, NOTE_IN + PANEL_BOTTOM_IN, 0.14, min(2.4, sum(heights) - 0.6))
    colors = figure.colorbar(image, cax=figure.add_axes(_relative(bar, width, height)))
    colors.set_label("relative error, %", fontsize=8, color=PALE)
    colors.ax.tick_params(labelsize=7)
    figure.text(0.01, 1 - 0.1 / height, title, fontsize=11, fontweight="bold", color=INK, va="top")
    figure.text(0.01, 0.08 / height, note, fontsize=7.5, color=PALE, va="bottom")
    return figure


def _relative(box: Box, width: float, height: float) -> Box:
    """(left, bottom, width, height) in inches as shares of the figure."""
    left, bottom, across, up = box
    return left / width, bottom / height, across / width, up / height


def _draw(axes: Axes, panel: Panel, norm: Normalize) -> AxesImage:
    """One stack: kinds down, blocks from left to right."""
    percent = [[100 * value for value in row] for row in panel.errors]
    image = axes.imshow(percent, cmap="cividis", norm=norm, aspect="auto", interpolation="nearest")
    axes.set_title(panel.stack or OUTSIDE, fontsize=8.5, color=INK, loc="left", pad=3)
    axes.set_yticks(range(len(panel.kinds)), panel.kinds, fontsize=8, color=INK)
    step = -(-len(panel.blocks) // TICKS)
    shown = [str(block) for block in panel.blocks[::step]] if panel.stack else []
    axes.set_xticks(range(0, len(shown) * step, step), shown, fontsize=7, color=INK)
    axes.set_facecolor("#eeeeee")
    axes.tick_params(length=0)
    return image
