"""A loader's factory in, the one file that it reads out; its model as the engine sees it.

Where a model comes from no single file, its own modules stand in for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import comfy.sd
import torch

from ..engine.files.open import open_source
from ..engine.fuse.lora import Fused
from ..engine.layer import Layer
from ..engine.model import Model, recognise
from ..engine.read import read
from ..engine.rows import RowReader, row_count
from ..engine.source import Source
from ..engine.tensors import TensorSpec, dtype_name
from .choosing import contents_of
from .pristine import READS_FILE, Init, Recipe, pristine
from .weights import dequantized, summed

PREFIX = "diffusion_model."  # of the host's names for what a file holds
LORAS = "the LoRAs of the model"
Patches = Mapping[str, list[Any]]


def file_of(init: Init) -> str | None:
    """The one checkpoint that a loader's factory reads as it is; None for any other factory."""
    path, *more = init[1]
    as_it_is = getattr(init[0], READS_FILE, False) and not any(more[1:])  # not on the user's word
    if as_it_is or (init[0] is comfy.sd.load_diffusion_model and not any(more)):
        return str(path)
    if init[0] is comfy.sd.load_checkpoint_guess_config and not any(more[5:]):
        return str(path)
    return None


@dataclass(frozen=True)
class Patched(Fused):
    """What the host's patches change, by layer key: each layer's sum is made whole, one at a time.

    `changes` only says which layers they are.
    """

    patches: Patches = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def reader(self, layer: Layer, base: RowReader, device: str = "cpu") -> RowReader:
        """Rows of the sum of a layer and its patches in float32."""
        found = self.patches.get(layer.key)
        return base if found is None else summed_rows(layer, found, self.device, base)

    def deltas(self, layer: Layer, base: RowReader) -> Iterator[tuple[str, RowReader]]:
        """All patches of a layer as one: the host does not say which LoRA they are from."""
        if layer.key in self.patches:
            yield LORAS, self.reader(layer, base)


def summed_rows(
    layer: Layer, patches: list[Any], device: torch.device, base: RowReader
) -> RowReader:
    """A reader of the rows of a layer with its patches, from the whole sum in float32."""
    count = row_count(layer)
    values = base(0, count).reshape(layer.shape).to(device)
    whole = summed(values, patches, PREFIX + layer.key).reshape(count, -1)
    return lambda start, stop: whole[start:stop].clone()


@dataclass(frozen=True)
class ModuleSource:
    """The parameters of a network of the host as a source; quantized ones are dequantized."""

    parameters: Mapping[str, torch.Tensor]
    tensors: Mapping[str, TensorSpec]
    path: Path = Path("a model in memory")
    kind: str = "modules"
    metadata: Mapping[str, str] = field(default_factory=dict)

    def read_bytes(self, name: str, at: int = 0, size: int | None = None) -> bytes:
        """Nothing asks for the bytes of a module."""
        raise NotImplementedError(name)

    def tensor(self, name: str) -> torch.Tensor:
        """The numbers of a parameter."""
        return dequantized(self.parameters[name]).cpu()

    def prefetch(self, name: str) -> None:
        """Nothing: they are in memory."""

    def close(self) -> None:
        """Nothing: no file is open."""


def source_of(network: torch.nn.Module, prefix: str) -> ModuleSource:
    """A source of every parameter below `prefix`, by its name without it."""
    found = {
        key[len(prefix) :]: parameter
        for key, parameter in network.named_parameters()
        if key.startswith(prefix)
    }
    specs = {
        name: TensorSpec(name, dtype_name(parameter.dtype), tuple(parameter.shape))
        for name, parameter in found.items()
    }
    return ModuleSource(found, specs)


@dataclass(frozen=True)
class Origin:
    """What a recipe is made from: its numbers, the model that they are, and the patches on it."""

    source: Source
    model: Model
    fused: Patched


@contextmanager
def origin_of(recipe: Recipe, device: torch.device) -> Iterator[Origin]:
    """The origin of a recipe, its file open inside the block; sums are made on `device`."""
    path = file_of(recipe.init)
    patches = {
        key.removeprefix(PREFIX): found
        for key, found in recipe.patches.items()
        if key.startswith(PREFIX)
    }
    fused = Patched(dict.fromkeys(patches, ()), patches=patches, device=device)
    if path is None:
        network = pristine(recipe.init, recipe.compute_dtype).model
        model = recognise(contents_of(network, PREFIX))
        yield Origin(source_of(network, PREFIX), model, fused)
        return
    source = open_source(path)
    try:
        model = replace(recognise(read(source)), others=(), prefix="")
        yield Origin(source, model, fused)
    finally:
        source.close()
