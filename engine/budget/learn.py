"""A model and its source in, what its transformer shows of its layers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from ..fuse.lora import Fused
from ..insight import NOTHING, Insight, LayerInsight
from ..layer import Layer
from ..measure.config import Config
from ..measure.references import config_for
from ..model import Model
from ..rows import row_count, rows_of
from ..source import Source
from .probe import USES, probe

Advance = Callable[[int], None]  # told how many bytes of 16-bit numbers have been gone through


def learn(
    source: Source,
    model: Model,
    fused: Fused,
    device: str,
    inputs: Mapping[str, torch.Tensor] | None = None,
    advance: Advance = lambda count: None,
) -> Insight:
    """What the model's own transformer shows, LoRAs added; nothing where we have none for it.

    `inputs`: mean squares of input channels that were measured, which take the place of its own.
    What `advance` raises ends the work.
    """
    return with_inputs(_shown(source, model, fused, device, advance), inputs)


def with_inputs(insight: Insight, measured: Mapping[str, torch.Tensor] | None) -> Insight:
    """The insight with input channels as they were measured, to which no directions belong."""
    if not measured:
        return insight
    layers = dict(insight.layers)
    for name, values in measured.items():
        inputs = values.to("cpu", torch.float32)
        layers[name] = replace(layers.get(name, LayerInsight()), inputs=inputs, directions=None)
    return Insight(layers, f"inputs as measured while sampling; {insight.how}")


def _shown(source: Source, model: Model, fused: Fused, device: str, advance: Advance) -> Insight:
    config = _config_of(model)
    if config is None:
        return NOTHING
    layers = {layer.key: layer for layer in model.layers}

    def get(key: str) -> torch.Tensor:
        layer = layers[key]
        reader = fused.reader(layer, rows_of(layer, source))
        return reader(0, row_count(layer)).reshape(layer.shape).to(device)

    left = learned_bytes(model)

    def used(name: str) -> None:
        nonlocal left
        count = _bytes(layers[f"{name}.weight"])
        left -= count
        advance(count)

    found = probe(config, get, used, device)
    advance(left)  # outside the blocks a weight is used twice
    return found


def learned_bytes(model: Model) -> int:
    """How much `advance` is told in all."""
    if _config_of(model) is None:
        return 0
    return USES * sum(_bytes(layer) for layer in model.layers if layer.is_matrix)


def _config_of(model: Model) -> Config | None:
    return config_for(model.family.name, model.shapes)


def _bytes(layer: Layer) -> int:
    return 2 * layer.elements
