"""The layers of a model in, which tokens each multiplies and how wide its blocks are out.

Reads names and shapes alone.
"""

from __future__ import annotations

import re
from collections import Counter

from ..layer import Layer
from ..model import Model

# which tokens a layer multiplies, by its name; the first row that matches
ONE_ROW = re.compile(
    r".*(?:_mod\b|modulation|ada(?:LN|ln)|time|guidance|vector|norm_out|norm1?_?\w*\.linear).*"
)
TEXT_SIDE = re.compile(
    r".*(?:txt|\.add_[qkv]_proj|to_add_out|_context|context_|text_|cross_attn\.[kv]"
    r"|caption_|_connector\.|\battn2\.to_[kv]|to_(?:[qkv]|out)_t\b|ff_t\.).*"
)
# of four experts each token passes two (HiDream)
EXPERT, CHOSEN = re.compile(r".*\.experts\.\d+\..*"), 0.5
# the sound of LTX-2 and of Wan S2V: 25 tokens a second, counted as few as the text's
SOUND = re.compile(r".*\b(?:audio_(?:attn[12]|ff)|video_to_audio_attn|casual_audio_encoder)\..*")
_NUMBERED = re.compile(r"(.*?\.\d+)\.")


def block_of(layer: Layer) -> str | None:
    """The block that a layer is in, None where it is in none."""
    found = _NUMBERED.match(layer.name)
    return found[1] if found else None


def side_of(layer: Layer) -> str:
    """Whose tokens pass a matrix: `all`, the `chosen` ones, the `text`'s, or `one` row."""
    if ONE_ROW.fullmatch(layer.name):
        return "one"
    if TEXT_SIDE.fullmatch(layer.name) or SOUND.fullmatch(layer.name):
        return "text"
    return "chosen" if EXPERT.fullmatch(layer.name) else "all"


def image_matrices(model: Model) -> list[Layer]:
    """The matrices of the blocks that the picture's tokens pass."""
    blocks = (layer for layer in model.layers if layer.is_matrix and block_of(layer))
    return [layer for layer in blocks if side_of(layer) in ("all", "chosen")]


def widths_of(model: Model) -> tuple[int, int]:
    """(the commonest number of inputs, the most outputs) of the matrices that a picture passes."""
    image = image_matrices(model)
    inputs = Counter(layer.shape[1] for layer in image)
    width = inputs.most_common(1)[0][0] if inputs else 1
    return width, max((layer.shape[0] for layer in image), default=width)
