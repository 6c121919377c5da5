"""A workflow in, a small picture of its graph out: the thumbnail in ComfyUI's template browser."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

from .graph import Graph
from .layout import TITLE, Box, Layout, bounds_of, layout
from .workflow import Workflow

SIZE, MARGIN, CAPTION, QUALITY, ZOOM = (640, 360), 8, 62, 80, 2
CAPTION_SIZES = (24, 15)  # of the model's and task's line, of the scheme's and tier's
BACKGROUND, GROUP, GROUP_LINE, TEXT = "#1b1b1f", "#25353f", "#3f789e", "#e6e6e6"
NODE, HEAD, DIM = "#38383c", "#4a4a52", "#9db8c8"
HEADS = {"FQ": "#35607f"}  # ours stand out
WIRES = {
    "MODEL": "#b39ddb", "CLIP": "#ffd500", "VAE": "#ff6e6e", "CONDITIONING": "#ffa931",
    "LATENT": "#ff9cf9", "IMAGE": "#64b5f6", "MASK": "#81c784", "STRING": "#77ff77",
    "CLIP_VISION": "#a8dadc", "CLIP_VISION_OUTPUT": "#ad7452", "FQ_PLAN": "#f4a261",
}  # fmt: skip
WIRE = "#9a9a9a"


def thumbnail(workflow: Workflow) -> bytes:
    """A JPEG of SIZE: what it is, then groups, nodes and wires in the editor's colors."""
    graph = workflow.graph
    placed = layout(graph)
    board = _Board(placed)
    board.caption(workflow.name)
    for title, box in placed.groups:
        board.box(box, GROUP, GROUP_LINE)
        board.text((box[0] + 14, box[1] + 8), title, 44)
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
        left, top, width, height = bounds_of([box for _, box in placed.groups])
        across, down = ZOOM * (SIZE[0] - 2 * MARGIN), ZOOM * (SIZE[1] - CAPTION - MARGIN)
        self.scale = min(across / width, down / height)
        self.left = left - (ZOOM * SIZE[0] / self.scale - width) / 2
        self.top = top - (ZOOM * CAPTION + (down - height * self.scale) / 2) / self.scale
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

    def caption(self, name: str) -> None:
        """The name of a workflow in words: model and task, scheme and tier."""
        _, model, task, scheme, tier = (part.replace("-", " ") for part in name.split("_"))
        y = 8
        for said, size, fill in zip(
            (f"{model}: {task}", f"{scheme}, {tier}"), CAPTION_SIZES, (TEXT, DIM), strict=True
        ):
            font = ImageFont.load_default(ZOOM * size)
            self.draw.text((ZOOM * 12, ZOOM * y), said, fill=fill, font=font)
            y += size + 6

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
