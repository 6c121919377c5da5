"""An opened file in, the model in it and the bytes that each scheme would make of it out.

The same numbers as `pipeline.prepare` gives, without torch; a test compares. The blocks of a
transformer are alike: one layer of each kind is planned, and counted once for each block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

from ..choose import choose
from ..files.writer import size_of
from ..layer import Layer
from ..model import Model, recognise
from ..outputs import output_of, specs_of
from ..place.budget import Placement, place
from ..place.step import Net
from ..read import read
from ..recipe import FusedLora, Recipe, fingerprint, header
from ..repairable import mend_layer, plain_codes
from ..source import Source
from ..specs import spec
from .activations import in_blocks, net_of

_BLOCK = re.compile(r"\d+")  # the first number of a name is that of its block
LEAST_SIDE = 512  # a LoRA is put on matrices whose sides are at least so long


@dataclass(frozen=True)
class Sizes:
    """A model in a scheme. `layers`: (name, bytes) in the model's order, for placing.

    `quantized_elements`: numbers that are dequantized in every pass where the scheme is emulated.
    `adapter_rows`: what a LoRA of rank 1 holds, the sum of n + k.
    """

    scheme: str
    weight_bytes: int
    layers: tuple[tuple[str, int], ...]
    quantized_elements: int
    adapter_rows: int

    @property
    def largest_bytes(self) -> int:
        """The largest layer."""
        return max((size for _, size in self.layers), default=0)

    def placed(self, room_bytes: int) -> Placement:
        """Which layers stay in a memory of `room_bytes`, reserve included."""
        return place(self.layers, room_bytes)


@dataclass(frozen=True)
class Fused:
    """A LoRA as it goes into the recipe of a file."""

    source: Source
    strength: float


@dataclass(frozen=True, eq=False)
class Subject:
    """An opened model: where it is from and what it was recognised as."""

    source: Source
    model: Model
    _sizes: dict[str, Sizes] = field(default_factory=dict, repr=False)
    _nets: dict[tuple[str, str], Net] = field(default_factory=dict, repr=False)
    _files: dict[tuple[str, tuple[FusedLora, ...]], int] = field(default_factory=dict, repr=False)

    @property
    def is_spec(self) -> bool:
        """A header without numbers: the file itself may not be here."""
        return self.source.kind == "spec"

    @cached_property
    def stored_bytes(self) -> int:
        """The tensors of the file as it is."""
        return sum(tensor.size_bytes for tensor in self.source.tensors.values())

    @cached_property
    def fingerprint(self) -> str:
        """The recipe's name for these numbers."""
        return fingerprint(self.source)

    @cached_property
    def kinds(self) -> tuple[tuple[Layer, ...], tuple[int, ...]]:
        """(one layer of each kind, the kind of every layer of the model in its order)."""
        known: dict[object, int] = {}
        first: list[Layer] = []
        order = []
        rules = [re.compile(rule.pattern) for rule in self.model.family.keep]
        for layer in self.model.layers:
            stored = tuple((x.scheme, str(x.settings), x.rows, *x.tensors) for x in layer.parts)
            kept = tuple(bool(rule.fullmatch(layer.name)) for rule in rules)
            alike = (_BLOCK.sub("#", layer.key, count=1), layer.shape, layer.dtype, stored, kept)
            if alike not in known:
                known[alike] = len(first)
                first.append(layer)
            order.append(known[alike])
        return tuple(first), tuple(order)

    def net(self, scheme: str, device: str) -> Net:
        """What the memory of a step depends on, in a scheme on a device class; worked out once."""
        if (scheme, device) not in self._nets:
            self._nets[scheme, device] = net_of(self.model, in_blocks(scheme, device))
        return self._nets[scheme, device]

    def sizes(self, scheme: str) -> Sizes:
        """The model in a scheme; worked out once."""
        if scheme not in self._sizes:
            self._sizes[scheme] = self._sized(scheme)
        return self._sizes[scheme]

    def _sized(self, scheme: str) -> Sizes:
        first, order = self.kinds
        choices = choose(replace(self.model, layers=first), scheme)
        outputs = [output_of(choice, touched=False) for choice in choices]
        each = [sum(t.size_bytes for t in output.tensors.values()) for output in outputs]
        layers = [(x.name, each[n]) for x, n in zip(self.model.layers, order, strict=True)]
        for layer in self.model.others:
            beside = output_of(mend_layer(plain_codes(layer)).choice, touched=False)
            layers.append((layer.name, sum(t.size_bytes for t in beside.tensors.values())))
        quantized = [choice.scheme != "none" for choice in choices]
        return Sizes(
            scheme=scheme,
            weight_bytes=sum(size for _, size in layers),
            layers=tuple(layers),
            quantized_elements=sum(first[n].elements for n in order if quantized[n]),
            adapter_rows=sum(sum(first[n].shape) for n in order if _adapted(first[n])),
        )

    def file_bytes(self, scheme: str, fused: Sequence[Fused] = ()) -> int:
        """The exact size of the file that fusing LoRAs and quantizing would write."""
        loras = tuple(FusedLora(fingerprint(lora.source), lora.strength) for lora in fused)
        if (scheme, loras) not in self._files:
            self._files[scheme, loras] = self._written(scheme, loras)
        return self._files[scheme, loras]

    def _written(self, scheme: str, loras: tuple[FusedLora, ...]) -> int:
        model = self.model
        outputs = [output_of(c, False, model.written_prefix) for c in choose(model, scheme)]
        beside = [mend_layer(plain_codes(layer)).choice for layer in model.others]
        outputs += [output_of(choice, touched=False) for choice in beside]
        recipe = Recipe(source=self.fingerprint, scheme=scheme, loras=loras)
        return size_of(specs_of(outputs), header(self.source, recipe.to_json()))


def _adapted(layer: Layer) -> bool:
    return layer.is_matrix and min(layer.shape) >= LEAST_SIDE


def subject_of(source: Source) -> Subject:
    """An opened file, recognised."""
    return Subject(source, recognise(read(source)))


@cache
def public(name: str) -> Subject:
    """A public model by the name of its spec."""
    return subject_of(spec(name))
