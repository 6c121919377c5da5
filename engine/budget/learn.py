"""A model and its source in, what its transformer shows of its layers out."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..fuse.lora import Fused
from ..layer import Layer
from ..measure.config import Config
from ..measure.references import config_for
from ..model import Model
from ..rows import row_count, rows_of
from ..source import Source
from .insight import NOTHING, Insight
from .probe import USES, probe

Advance = Callable[[int], None]  # told how many bytes of 16-bit numbers have been gone through


def learn(
    source: Source, model: Model, fused: Fused, device: str, advance: Advance = lambda count: None
) -> Insight:
    """What the model's own transformer shows, LoRAs added; `NOTHING` where we have none for it.

    What `advance` raises ends the work.
    """
    config = _config_of(model)
    if config is None:
        return NOTHING
    layers = {layer.key: layer for layer in model.layers}

    def get(key: str) -> torch.Tensor:
        layer = layers[key]
        reader = fused.reader(layer, rows_of(layer, source))
        return reader(0, row_count(layer)).reshape(layer.shape).to(device)

    def used(name: str) -> None:
        advance(_bytes(layers[f"{name}.weight"]))

    return probe(config, get, used, device)


def learned_bytes(model: Model) -> int:
    """How much `advance` is told in all."""
    if _config_of(model) is None:
        return 0
    return USES * sum(_bytes(layer) for layer in model.layers if layer.is_matrix)


def _config_of(model: Model) -> Config | None:
    return config_for(model.family.name, model.shapes)


def _bytes(layer: Layer) -> int:
    return 2 * layer.elements
