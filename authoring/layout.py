"""A graph in, where each node, note and group stands out: a column or two for each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .graph import Graph, Node, Note
from .node_types import Input

GAP, TITLE = 60, 30  # between nodes; the bar above a node, which its position does not count
PAD, GROUP_TITLE, BETWEEN = 30, 60, 80  # of a group: inside, its title, to the next
TALLEST = 1500  # of a column: what is longer goes on in another
WIDTH, TEXT_WIDTH, NOTE_WIDTH = 360, 440, 520
SOCKET, WIDGET, FRAME, TEXT_BOX = 20, 30, 60, 150  # of the newer renderer
OLD_WIDGET, OLD_FRAME, OLD_TEXT_BOX = 24, 14, 130  # of the older one, which hides no widget
LINE, LINE_CHARACTERS = 22, 66  # of a note
# what a node shows below its widgets
SHOWN: Mapping[str, int] = {
    "LoadImage": 320, "PreviewAny": 260, "PreviewImage": 320, "SaveImage": 460, "SaveVideo": 460,
}  # fmt: skip
WIDTHS: Mapping[str, int] = {
    "SaveImage": 520, "SaveVideo": 520, "PreviewAny": 440, "PreviewImage": 440, "FQInspect": 440,
    "FQConvert": 440,
}  # fmt: skip

Box = tuple[int, int, int, int]  # x, y, width, height; of a node without its title


@dataclass
class Layout:
    """Where everything stands. `groups`: (title, box)."""

    nodes: dict[Node, Box] = field(default_factory=dict)
    notes: dict[Note, Box] = field(default_factory=dict)
    groups: list[tuple[str, Box]] = field(default_factory=list)

    @property
    def bounds(self) -> Box:
        """The box around everything, titles too."""
        return bounds_of([*self.notes.values(), *(box for _, box in self.groups)])


def bounds_of(boxes: list[Box]) -> Box:
    """The box around boxes, with the bar above them."""
    left, top = min(b[0] for b in boxes), min(b[1] for b in boxes) - TITLE
    right, bottom = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    return left, top, right - left, bottom - top


def layout(graph: Graph) -> Layout:
    """Notes at the left, then the steps in their order."""
    found = Layout()
    height = 0
    for note in graph.notes:
        size = note_height(note)
        found.notes[note] = (-NOTE_WIDTH - BETWEEN, height, NOTE_WIDTH, size)
        height += size + GAP
    left = 0
    for step in graph.steps:
        nodes = [node for node in graph.nodes if node.step == step]
        box = _step(found, nodes, left)
        found.groups.append((graph.title(step), box))
        left = box[0] + box[2] + BETWEEN
    return found


def _step(found: Layout, nodes: list[Node], left: int) -> Box:
    """Put the nodes of a step into columns; the box of its group."""
    x, y, right, bottom = left + PAD, 0, left + PAD, 0
    for node in nodes:
        width, height = node_size(node)
        if y and y + height > TALLEST:
            x, y = right + GAP, 0
        found.nodes[node] = (x, y, width, height)
        y += height + GAP
        right, bottom = max(right, x + width), max(bottom, y - GAP)
    top = TITLE + GROUP_TITLE
    return left, -top, right + PAD - left, bottom + top + PAD


def node_size(node: Node) -> tuple[int, int]:
    """Width and height, large enough for both of the frontend's renderers."""
    name, inputs = node.type.name, node.inputs
    sockets = sum(not one.is_widget for one in inputs)
    rows = [_row(one) for one in inputs if one.is_widget and _visible(node, one)]
    wide = TEXT_WIDTH if any(row > WIDGET for row in rows) else WIDTH
    slots = SOCKET * max(sockets, len(node.type.outputs))
    height = max(FRAME + slots + sum(rows), OLD_FRAME + slots + _old_rows(node))
    return WIDTHS.get(name, wide), height + SHOWN.get(name, 0)


def _old_rows(node: Node) -> int:
    """What all widgets take in the older renderer."""
    rows = (_row(one) for one in node.inputs if one.is_widget)
    return sum(OLD_TEXT_BOX if row == TEXT_BOX else OLD_WIDGET * row // WIDGET for row in rows)


def _visible(node: Node, one: Input) -> bool:
    return not one.told.get("advanced") or node.shows_advanced


def _row(one: Input) -> int:
    """What a widget takes, with what the frontend puts below it."""
    if one.kind == "STRING" and one.told.get("multiline"):
        return TEXT_BOX
    return WIDGET * (2 if one.controlled or one.uploads else 1)


def note_height(note: Note) -> int:
    """As many lines as the text has when it is wrapped."""
    lines = note.text.splitlines()
    wrapped = sum(max(1, math.ceil(_shown(line) / LINE_CHARACTERS)) for line in lines)
    return FRAME + LINE * (wrapped + 1)


def _shown(line: str) -> int:
    """Characters of a line, an address in a link not counted."""
    return len(line.partition("](")[0])


def overlap(first: Box, second: Box) -> bool:
    """Whether two nodes cover each other, their titles too."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first, second
    return ax < bx + bw and bx < ax + aw and ay - TITLE < by + bh and by - TITLE < ay + ah
