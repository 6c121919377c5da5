"""A quantized checkpoint in, the same numbers in another spelling or in full precision out."""

from __future__ import annotations

from dataclasses import replace

from .layer import Layer
from .model import recognise
from .pipeline import Prepared, Request, lay_out
from .plan import Choice
from .read import read
from .recipe import header, recipe_of
from .repairable import mend_layer
from .source import Source
from .tensors import FLOATS, FP8


def prepare_dequant(source: Source, dtype: str = "F32", rotated: int | None = None) -> Prepared:
    """Every floating parameter as `dtype` under the file's own name. `rotated` as in `read`."""

    def choice(layer: Layer) -> Choice:
        floating = layer.scheme != "none" or layer.dtype in (*FLOATS, *FP8)
        return Choice(layer, "none", dtype if floating else layer.dtype, "dequantized")

    contents = read(source, rotated)
    own_names = replace(
        recognise(contents), layers=contents.layers, others=(), unused=(), prefix=""
    )
    recipe = recipe_of(source, "none", dtype=dtype, rotated=rotated)
    metadata = header(source, recipe.to_json())
    request = Request(scheme="none", dtype=dtype)
    choices = [choice(layer) for layer in contents.layers]
    return lay_out(source, own_names, choices, request, metadata)


def prepare_repair(source: Source, rotated: int | None = None) -> Prepared:
    """The codes of the file unchanged under core's names, markers and scale shapes.

    Where codes cannot stay, the choice says why and the plan warns of the second rounding.
    `rotated` as in `read`: then the written markers say it.
    """
    model = recognise(read(source, rotated))
    choices = [mend_layer(layer).choice for layer in model.layers]
    recipe = recipe_of(source, "as stored", rotated=rotated)
    metadata = header(source, recipe.to_json())
    return lay_out(source, model, choices, Request(scheme="as stored"), metadata)
