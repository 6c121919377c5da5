"""What a file holds in, which model it is out: family, spelling, and layers in core's names.

Names and shapes are enough: torch is not imported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from .errors import Refused
from .family import Family, Shapes
from .format import Contents
from .layer import Layer
from .parts import discover
from .tensors import FLOATS

UNKNOWN = "unknown"
# components that files put before a model's own names
_WRAPPERS = frozenset(
    (
        "model", "diffusion_model", "transformer", "net", "module", "dit", "unet", "generator",
        "generator_ema", "text_encoders", "text_encoder", "cond_stage_model", "pipe", "student",
    )
)  # fmt: skip
_NESTS = frozenset(("text_encoders",))  # the component after it names one of several models
_KINDS = ("diffusion", "text", "vision")  # of two models in one file the first kind is meant
_ADAPTER_MARKS = (".lora_A.", ".lora_B.", ".lora_up.", ".lora_down.", ".lokr_w1", ".hada_w1_a")


@dataclass(frozen=True)
class Model:
    """A recognised model.

    `layers` have core's names without a prefix; `original` are the same numbers as the file names
    them. `others` are layers of the file outside the model (VAE, text encoder): with them the file
    is a full checkpoint and keeps its names. `unused` are layers that core's model has no place
    for. `dtype` is the commonest floating-point dtype by the number of elements.
    """

    family: Family
    spelling: str
    prefix: str
    layers: tuple[Layer, ...]
    original: tuple[Layer, ...]
    others: tuple[Layer, ...]
    unused: tuple[Layer, ...]
    dtype: str

    @cached_property
    def shapes(self) -> Shapes:
        """Core's names and shapes."""
        return shapes_of(self.layers)

    @property
    def is_checkpoint(self) -> bool:
        """True when the file holds more than this model."""
        return bool(self.others)

    @property
    def written_prefix(self) -> str:
        """What a written file puts before the names: nothing, unless it must keep its names."""
        return self.prefix if self.is_checkpoint or self.family.name == UNKNOWN else ""


@dataclass(frozen=True)
class _Found:
    family: Family
    spelling: str
    prefix: str
    elements: int


def families() -> Mapping[str, Family]:
    """Every family by name."""
    return discover(f"{__package__}.families", "FAMILY")


def shapes_of(layers: Iterable[Layer], prefix: str = "") -> Shapes:
    """The names and shapes of the layers under a prefix, without it."""
    cut = len(prefix)
    return {layer.key[cut:]: layer.shape for layer in layers if layer.key.startswith(prefix)}


def prefixes(keys: Iterable[str]) -> tuple[str, ...]:
    """What may stand before a model's own names in these keys: "" first, then longer ones."""
    found = {""}
    for key in keys:
        parts = key.split(".")
        end = 0
        while end < len(parts) - 1 and parts[end] in _WRAPPERS:
            end += 2 if parts[end] in _NESTS else 1
            found.add(".".join(parts[:end]) + ".")
    return tuple(sorted(found, key=lambda prefix: (len(prefix), prefix)))


def _candidates(layers: tuple[Layer, ...]) -> list[_Found]:
    found = []
    for prefix in prefixes(layer.key for layer in layers):
        shapes = shapes_of(layers, prefix)
        elements = sum(layer.elements for layer in layers if layer.key.startswith(prefix))
        for family in families().values():
            spelling = family.spelling(shapes)
            if spelling:
                found.append(_Found(family, spelling, prefix, elements))
    return found


def _generic_prefix(layers: tuple[Layer, ...]) -> str:
    """For an unknown model: the longest prefix that marks a diffusion model, else none."""
    known = prefixes(layer.key for layer in layers)
    return next((p for p in reversed(known) if p.endswith("diffusion_model.")), "")


def _refuse_adapter(layers: tuple[Layer, ...]) -> None:
    marked = next((x.key for x in layers if any(mark in x.key for mark in _ADAPTER_MARKS)), None)
    if marked is not None:
        raise Refused(
            "lora-as-model",
            found=f"the LoRA tensor {marked}",
            expected="the weights of a model",
            fix="give the model as the source and this file as a LoRA",
        )


def recognise(contents: Contents) -> Model:
    """The model of a file; one that no family knows is `unknown`. Refuses a LoRA file."""
    layers = contents.layers
    _refuse_adapter(layers)
    candidates = sorted(
        _candidates(layers), key=lambda x: (_KINDS.index(x.family.kind), -x.elements)
    )
    best = (
        candidates[0]
        if candidates
        else _Found(families()[UNKNOWN], "core", _generic_prefix(layers), 0)
    )
    cut = len(best.prefix)
    original = tuple(layer for layer in layers if layer.key.startswith(best.prefix))
    stripped = tuple(replace(layer, key=layer.key[cut:]) for layer in original)
    core = best.family.to_core(stripped, best.spelling)
    used = {part.tensors["weight"] for layer in core for part in layer.parts}
    return Model(
        family=best.family,
        spelling=best.spelling,
        prefix=best.prefix,
        layers=core,
        original=original,
        others=tuple(layer for layer in layers if not layer.key.startswith(best.prefix)),
        unused=tuple(x for x in original if not any(p.tensors["weight"] in used for p in x.parts)),
        dtype=commonest_dtype(core),
    )


def commonest_dtype(layers: Iterable[Layer]) -> str:
    """The floating-point dtype with the most elements; BF16 when there is none."""
    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.dtype in FLOATS:
            counts[layer.dtype] += layer.elements
    return counts.most_common(1)[0][0] if counts else "BF16"
