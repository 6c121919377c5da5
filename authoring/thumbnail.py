"""A laid-out graph in, a small picture of it out: the thumbnail in ComfyUI's template browser."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

from .graph import Graph
from .layout import TITLE, Box, Layout, layout

SIZE, MARGIN, QUALITY, ZOOM = (640, 360), 10, 78, 2
BACKGROUND, GROUP, GROUP_LINE, TEXT = "#1b1b1f", "#25353f", "#3f789e", "#e6e6e6"
NODE, HEAD, NOTE = "#38383c", "#4a4a52", "#141416"
HEADS = {"FQ": "#35607f"}  # ours stand out
WIRES = {
    "MODEL": "#b39ddb", "CLIP": "#ffd500", "VAE": "#ff6e6e", "CONDITIONING": "#ffa931",
    "LATENT": "#ff9cf9", "IMAGE": "#64b5f6", "MASK": "#81c784", "STRING": "#77ff77",
    "CLIP_VISION": "#a8dadc", "CLIP_VISION_OUTPUT": "#ad7452", "FQ_PLAN": "#f4a261",
}  # fmt: skip
WIRE = "#9a9a9a"


def thumbnail(graph: Graph) -> bytes:
    """A JPEG of SIZE: groups, nodes with their titles, wires in the editor's colors."""
    placed = layout(graph)
    board = _Board(placed)
    for title, box in placed.groups:
        board.frame(box, GROUP, GROUP_LINE)
        board.text((box[0] + 12, box[1] + 8), title, 40)
    for box in placed.notes.values():
        board.box(box, NOTE)
    _wires(graph, placed, board)
    for node, box in placed.nodes.items():
        head = next((c for mark, c in HEADS.items() if node.type.name.startswith(mark)), HEAD)
        board.box(box, NODE)
        board.box((box[0], box[1] - TITLE, box[2], TITLE + 14), head)
        board.text((box[0] + 8, box[1] - TITLE + 4), node.title or node.type.title, 26)
    return board.jpeg()


def _wires(graph: Graph, placed: Layout, board: _Board) -> None:
    for node in graph.nodes:
        x, y, _, _ = placed.nodes[node]
        for row, out in enumerate(node.links.values()):
            fx, fy, width, _ = placed.nodes[out.node]
            start = (fx + width, fy + 20 + 20 * out.slot)
            board.wire(start, (x, y + 20 + 20 * row), WIRES.get(out.kind, WIRE))


class _Board:
    """A canvas in the graph's own coordinates, drawn larger and then made small."""

    def __init__(self, placed: Layout) -> None:
        left, top, width, height = placed.bounds
        room = [ZOOM * (side - 2 * MARGIN) for side in SIZE]
        self.scale = min(room[0] / width, room[1] / height)
        self.left = left - (ZOOM * SIZE[0] / self.scale - width) / 2
        self.top = top - (ZOOM * SIZE[1] / self.scale - height) / 2
        self.image = Image.new("RGB", (ZOOM * SIZE[0], ZOOM * SIZE[1]), BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the graph on the canvas."""
        return (x - self.left) * self.scale, (y - self.top) * self.scale

    def box(self, box: Box, fill: str, outline: str | None = None) -> None:
        """A filled box with round corners."""
        x, y, width, height = box
        corners = [*self.at(x, y), *self.at(x + width, y + height)]
        self.draw.rounded_rectangle(corners, radius=12 * self.scale, fill=fill, outline=outline)

    def frame(self, box: Box, fill: str, outline: str) -> None:
        """A group."""
        self.box(box, fill, outline)

    def text(self, place: tuple[float, float], said: str, size: int) -> None:
        """A line of text; nothing where it would be too small to be seen."""
        height = size * self.scale
        if height >= ZOOM * 3:
            font = ImageFont.load_default(height)
            self.draw.text(self.at(*place), said, fill=TEXT, font=font)

    def wire(self, start: tuple[int, int], end: tuple[int, int], color: str) -> None:
        """A curve from an output to an input: a cubic with level ends."""
        (ax, ay), (bx, by) = self.at(*start), self.at(*end)
        bend = max(40 * self.scale, abs(bx - ax) / 2)
        points = []
        for step in range(25):
            t = step / 24
            a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
            x = a * ax + b * (ax + bend) + c * (bx - bend) + d * bx
            points.append((x, a * ay + b * ay + c * by + d * by))
        self.draw.line(points, fill=color, width=max(1, round(5 * self.scale)))

    def jpeg(self) -> bytes:
        """The canvas at its size."""
        small = self.image.resize(SIZE, Image.Resampling.LANCZOS)
        written = io.BytesIO()
        small.save(written, "JPEG", quality=QUALITY, optimize=True)
        return written.getvalue()
