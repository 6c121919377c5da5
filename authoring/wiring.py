"""How each node is wired in, one small SVG a node and language for its help page out.

`python -m fusequant.authoring.wiring` writes web/docs/images/ID.svg and .../images/zh/ID.svg. The
names of our nodes and slots come from locales/, so run authoring.locales first.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from .wirings import CORE, WIRINGS, Link, Wiring

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "web" / "docs" / "images"
LANGUAGES = ("en", "zh")
# ComfyUI's dark palette
SLOTS = {
    "MODEL": "#B39DDB", "CLIP": "#FFD500", "CLIP_VISION": "#A8DADC", "CONDITIONING": "#FFA931",
    "LATENT": "#FF9CF9", "IMAGE": "#64B5F6", "VAE": "#FF6E6E", "FQ_PLAN": "#8BC34A",
    "STRING": "#77DD77", "CLIP_VISION_OUTPUT": "#AD7452",
}  # fmt: skip
CANVAS, BODY, TITLE, WORDS, FRAME = "#202020", "#353535", "#2b2b2b", "#dddddd", "#e8e8e8"
WIDTH, GAP, ROW_GAP, EDGE = 130, 24, 20, 14  # two columns: the panel with the page is narrow
LINE, TITLE_LINE, SIZE = 17, 15, 12  # pixels: a slot, a line of a title, its letters
TITLE_UNITS = 18  # narrow letters that fit into a line of a title


@dataclass(frozen=True)
class Box:
    """One node of a picture, where it lies, and its slots from the top down."""

    name: str
    title: tuple[str, ...]
    x: int
    y: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    says: str

    @property
    def head(self) -> int:
        """Height of the title."""
        return 6 + TITLE_LINE * len(self.title)

    @property
    def height(self) -> int:
        """Height of all of it."""
        rows = max(len(self.inputs), len(self.outputs)) + bool(self.says)
        return self.head + 6 + LINE * rows

    def slot(self, name: str, output: bool) -> tuple[int, int]:
        """Where the dot of a slot is."""
        row = (self.outputs if output else self.inputs).index(name)
        return self.x + WIDTH * output, self.y + self.head + 3 + LINE * row + LINE // 2


def units(text: str) -> int:
    """Width of a text in narrow letters: a Chinese character is two."""
    return sum(2 if ord(letter) > 0x2E80 else 1 for letter in text)


def lines(title: str) -> tuple[str, ...]:
    """A title in one or two lines."""
    words = title.split(" ")
    if units(title) <= TITLE_UNITS or len(words) == 1:
        return (title,)
    cut = max(
        n for n in range(1, len(words)) if n == 1 or units(" ".join(words[:n])) <= TITLE_UNITS
    )
    return (" ".join(words[:cut]), " ".join(words[cut:]))


class Names:
    """Titles and slots in one language."""

    def __init__(self, language: str) -> None:
        path = ROOT / "locales" / language / "nodeDefs.json"
        self.nodes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.language = LANGUAGES.index(language)

    def title(self, node: str) -> str:
        """A node's name."""
        return str(
            self.nodes[node]["display_name"] if node in self.nodes else CORE[node][self.language]
        )

    def slot(self, node: str, slot: str, output: bool) -> str:
        """A slot's name: ours translated, ComfyUI's as it is."""
        if node not in self.nodes:
            return slot
        if not output:
            return str(self.nodes[node]["inputs"][slot.replace(".", "_")]["name"])
        english = (
            Names("en").nodes[node]["outputs"] if self.language else self.nodes[node]["outputs"]
        )
        place = next(key for key, one in english.items() if one["name"] == slot)
        return str(self.nodes[node]["outputs"][place]["name"])

    def says(self, node: str, line: str) -> str:
        """`input: choice`, the input's name translated; choices are the same in all languages."""
        slot, _, choice = line.partition(": ")
        return f"{self.slot(node, slot, False)}: {choice}" if choice else line


def placed(wiring: Wiring, names: Names) -> dict[str, Box]:
    """The boxes of a picture, columns from the left and rows from the top."""
    boxes: dict[str, Box] = {}
    top = EDGE
    for row in wiring.rows:
        for column, cell in enumerate(row):
            if not cell:
                continue
            slots = [(link.start, link.end) for link in wiring.links]
            boxes[cell] = Box(
                cell,
                lines(names.title(cell.partition("#")[0])),
                EDGE + column * (WIDTH + GAP),
                top,
                tuple(dict.fromkeys(end[1] for _, end in slots if end[0] == cell)),
                tuple(dict.fromkeys(start[1] for start, _ in slots if start[0] == cell)),
                names.says(cell.partition("#")[0], wiring.says.get(cell, "")),
            )
        top = max(box.y + box.height for box in boxes.values()) + ROW_GAP
    return boxes


def drawn_link(link: Link, boxes: dict[str, Box]) -> str:
    """A cable."""
    (x1, y1), (x2, y2) = (
        boxes[link.start[0]].slot(link.start[1], True), boxes[link.end[0]].slot(link.end[1], False),
    )  # fmt: skip
    if x2 > x1:
        way = f"C{x1 + GAP} {y1} {x2 - GAP} {y2} {x2} {y2}"
    else:  # to a node below: around this one, between the rows
        between = boxes[link.end[0]].y - ROW_GAP // 2
        way = f"h{EDGE // 2}V{between}H{x2 - EDGE // 2}V{y2}H{x2}"
    return (
        f'<path d="M{x1} {y1}{way}" fill="none" stroke="{SLOTS[link.kind]}" stroke-width="2.5" '
        'stroke-linejoin="round"/>'
    )


def word(x: int, y: int, text: str, color: str = WORDS, more: str = "") -> str:
    """A line of text whose middle is at `y`."""
    return f'<text x="{x}" y="{y + SIZE // 3}" fill="{color}"{more}>{escape(text)}</text>'


def drawn_box(box: Box, wiring: Wiring, names: Names, subject: str) -> str:
    """A node with its slots; the one that the page is about has a bright frame."""
    node = box.name.partition("#")[0]
    frame = f' stroke="{FRAME}" stroke-width="2"' if node == subject else ""
    parts = [
        f'<rect x="{box.x}" y="{box.y}" width="{WIDTH}" height="{box.height}" rx="6" '
        f'fill="{BODY}"{frame}/>',
        f'<path d="M{box.x + 1} {box.y + box.head}v{6 - box.head}q0 -5 5 -5h{WIDTH - 12}q5 0 5 5'
        f'v{box.head - 6}z" fill="{TITLE}"/>',
    ]
    for place, line in enumerate(box.title):
        middle = box.y + 4 + TITLE_LINE * place + TITLE_LINE // 2
        parts.append(word(box.x + 8, middle, line, "#ffffff", ' font-weight="600"'))
    kinds = {(link.start, True): link.kind for link in wiring.links}
    kinds |= {(link.end, False): link.kind for link in wiring.links}
    for output, slots in ((False, box.inputs), (True, box.outputs)):
        for slot in slots:
            x, y = box.slot(slot, output)
            color = SLOTS[kinds[(box.name, slot), output]]
            parts.append(f'<circle cx="{x}" cy="{y}" r="4.5" fill="{color}"/>')
            more = ' text-anchor="end"' if output else ""
            parts.append(
                word(x - 9 if output else x + 9, y, names.slot(node, slot, output), WORDS, more)
            )
    if box.says:
        rows = max(len(box.inputs), len(box.outputs))
        middle = box.y + box.head + 3 + LINE * rows + LINE // 2
        parts.append(word(box.x + 9, middle, box.says, "#9a9a9a"))
    return "".join(parts)


def drawn(subject: str, language: str) -> str:
    """A node's picture."""
    wiring, names = WIRINGS[subject], Names(language)
    boxes = placed(wiring, names)
    width = max(box.x for box in boxes.values()) + WIDTH + EDGE
    height = max(box.y + box.height for box in boxes.values()) + EDGE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="Inter,Arial,Helvetica,sans-serif" '
        f'font-size="{SIZE}">',
        f'<rect width="{width}" height="{height}" rx="8" fill="{CANVAS}"/>',
        *(drawn_box(box, wiring, names, subject) for box in boxes.values()),
        *(drawn_link(link, boxes) for link in wiring.links),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def pictures() -> dict[Path, str]:
    """Every file and what must be in it."""
    return {
        IMAGES / ("" if language == "en" else language) / f"{node}.svg": drawn(node, language)
        for node in WIRINGS
        for language in LANGUAGES
    }


def main() -> int:
    """Write all pictures; 0."""
    for path, text in pictures().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
