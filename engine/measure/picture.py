"""A drawn figure in, a PNG file or the pixels of a picture out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Refused

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


def write_png(figure: Figure, path: str | Path) -> None:
    """Draw the figure into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_png(str(path))


def pixels(figure: Figure) -> torch.Tensor:
    """Draw the figure: (1, height, width, 3) float32 in 0..1, a picture as ComfyUI has it."""
    import numpy
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = numpy.asarray(canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(drawn.copy()).to(torch.float32)[None] / 255


def stacked(pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """Pictures (1, height, width, 3) below each other on white, as wide as the widest."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - torch's own spelling

    widest = max(picture.shape[2] for picture in pictures)
    wide = [F.pad(p, (0, 0, 0, widest - p.shape[2]), value=1.0) for p in pictures]
    return torch.cat(wide, 1)


def blank() -> torch.Tensor:
    """A white pixel, where there is nothing to draw with."""
    import torch

    return torch.ones(1, 1, 1, 3)


def read_picture(path: str | Path) -> torch.Tensor:
    """A PNG, JPEG or WebP file: (height, width, 3) float32 in 0..1."""
    try:
        import numpy
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise Refused(
            "no-picture-reader",
            found=str(error),
            expected="the package pillow",
            fix="pip install pillow",
        ) from error
    import torch

    try:
        with Image.open(path) as picture:
            numbers = numpy.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise Refused(
            "picture-not-read",
            found=f"{Path(path).name}: {error}",
            expected="a PNG, JPEG or WebP file",
            fix="save the picture again",
        ) from error
    return torch.from_numpy(numbers.copy()).to(torch.float32) / 255
