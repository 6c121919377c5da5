"""A file and inputs in, the output of the reference transformer with its weights out."""

from __future__ import annotations

from pathlib import Path

import torch

from .errors import Refused
from .files.open import open_source
from .measure.quality import bind, output
from .measure.references import Inputs, config_for
from .model import recognise
from .read import read
from .rows import all_schemes, row_count, rows_of


def run_file(path: Path, inputs: Inputs) -> torch.Tensor:
    """(batch, tokens, channels): quantized layers compute as their scheme does, activations too.

    A file of a model that no reference transformer computes is refused.
    """
    source = open_source(path)
    model = recognise(read(source))
    config = config_for(model.family.name, model.shapes)
    if config is None:
        source.close()
        raise Refused(
            "no-reference-transformer",
            found=f"{model.family.title} in {path.name}",
            expected="the plain FLUX.1, Wan or Qwen-Image transformer",
            fix="run the model in ComfyUI",
        )
    layers = {layer.key: layer for layer in model.layers}
    linears = {}

    def weight(key: str) -> torch.Tensor:
        layer = layers[key]
        return rows_of(layer, source)(0, row_count(layer)).reshape(layer.shape)

    for layer in layers.values():
        if layer.scheme == "none":
            continue
        part = layer.parts[0]
        tensors = {role: source.tensor(name).clone() for role, name in part.tensors.items()}
        bias = weight(f"{layer.name}.bias") if f"{layer.name}.bias" in layers else None
        linears[layer.name] = bind(all_schemes()[layer.scheme], tensors, part.settings, bias)
    found = output(config, {key: weight(key) for key in layers}, inputs, linears)
    source.close()
    return found
