"""Nothing in, the pack's icon and banner out: `python -m fusequant.authoring.icon`.

Two strands, a model and a LoRA, fuse into one; the one becomes steps, and the last steps fade
because they wait outside the card. Drawn four times as large and reduced, so that edges are smooth.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
ICON, BANNER = (400, 400), (1260, 540)  # the registry takes icons to 400 and banners of 21:9
SCALE = 4
NIGHT, MODEL, LORA, FUSED = (17, 24, 39), (56, 189, 248), (251, 146, 60), (226, 232, 240)
STEPS, FADED = 7, (71, 85, 105)  # how many steps are drawn; the color of those that wait outside
WORDS = (("FuseQuant", 96, FUSED), ("fuse, then quantize, then offload", 40, MODEL))

Point = tuple[float, float]
Color = tuple[int, int, int]


def strand(start: Point, end: Point, points: int = 60) -> list[Point]:
    """A smooth line from start to end that leaves and arrives level: y goes as (1 - cos) / 2."""
    (x0, y0), (x1, y1) = start, end
    shares = [i / points for i in range(points + 1)]
    return [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * (1 - math.cos(math.pi * t)) / 2) for t in shares]


def stroke(draw: ImageDraw.ImageDraw, line: list[Point], width: float, color: Color) -> None:
    """A line of round ends and joints."""
    radius = width / 2
    draw.line(line, fill=color, width=round(width))
    for x, y in line:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def mark(draw: ImageDraw.ImageDraw, left: float, top: float, side: float) -> None:
    """The sign itself in a square of `side` pixels."""

    def at(x: float, y: float) -> Point:
        return left + x * side, top + y * side

    width = 0.055 * side
    stroke(draw, strand(at(0.10, 0.50), at(0.42, 0.72)), width, MODEL)
    stroke(draw, strand(at(0.10, 0.90), at(0.42, 0.72)), width, LORA)
    for step in range(STEPS):
        x, y = 0.44 + step * 0.068, 0.72 - step * 0.085
        color = FUSED if step < STEPS - 2 else FADED
        box = (*at(x, y - 0.0275), *at(x + 0.055, 0.88))
        draw.rounded_rectangle(box, radius=0.018 * side, fill=color)


def canvas(size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty picture, SCALE times as large."""
    picture = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), NIGHT)
    return picture, ImageDraw.Draw(picture)


def icon() -> Image.Image:
    """The sign alone, 400 pixels square."""
    picture, draw = canvas(ICON)
    mark(draw, 0, -0.06 * ICON[1] * SCALE, ICON[0] * SCALE)
    return picture.resize(ICON, Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """The sign, the name and what the pack does, 21:9."""
    picture, draw = canvas(BANNER)
    mark(draw, 40 * SCALE, 40 * SCALE, 420 * SCALE)
    y = 190 * SCALE
    for text, size, color in WORDS:
        draw.text((520 * SCALE, y), text, fill=color, font=ImageFont.load_default(size * SCALE))
        y += round(1.35 * size * SCALE)
    return picture.resize(BANNER, Image.Resampling.LANCZOS)


def main() -> int:
    """Write both pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    icon().save(IMAGES / "icon.png", optimize=True)
    banner().save(IMAGES / "banner.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
