"""A model family: how to recognise it, which layers stay as they are, other names of its layers.

One file in `families/` for each, ending in FAMILY.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .layer import Layer

Shapes = Mapping[str, tuple[int, ...]]  # parameter key without the file's prefix: logical shape


@dataclass(frozen=True)
class Rule:
    """Layers whose name fully matches the regular expression `pattern` stay, because `why`.

    `schemes` narrows the rule to some schemes; empty means every quantized one.
    """

    pattern: str
    why: str
    schemes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """Where a spelled name points: a layer's key and, in a fused weight, the rows meant.

    `halves_swapped`: the spelled weight has the layer's two halves of rows the other way round
    (scale, shift where core has shift, scale).
    """

    key: str
    rows: tuple[int, int] | None = None
    halves_swapped: bool = False


@dataclass(frozen=True)
class Family:
    """`spelling` is the naming that a checkpoint of the family uses: `core`, `diffusers`, ...

    spelling(shapes) -> the spelling by which these names are this family, or None.
    to_core(layers, spelling) -> the same numbers under core's names (renamed, concatenated).
    aliases(shapes) -> {other module name: Target}, for core's names: how LoRA files call them.
    `kind`: "diffusion", "text" or "vision"; `loads_in` names the stock node that opens such a file.
    `smallest_side`: matrices with a side below it stay; for models not known by name.
    """

    name: str
    title: str
    kind: str
    loads_in: str
    spelling: Callable[[Shapes], str | None]
    keep: tuple[Rule, ...] = ()
    to_core: Callable[[tuple[Layer, ...], str], tuple[Layer, ...]] = lambda layers, spelling: layers
    aliases: Callable[[Shapes], dict[str, Target]] = lambda shapes: {}
    smallest_side: int = 0
