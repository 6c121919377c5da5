"""A model and the schemes that it may be stored in, every way to store each of its layers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..choose import choose
from ..errors import Refused
from ..fuse.lora import Fused
from ..layer import Layer
from ..model import Model
from ..outputs import output_of
from ..plan import Budget, Choice
from ..rounding_names import NEAREST
from .allot import Option
from .weighed import Weighed

if TYPE_CHECKING:
    import torch

HEADER_LINE_BYTES = 72  # of a tensor, without its name and shape
NEARLY = 0.95  # a scheme must be better than the preferred one by this factor to be mixed in
FITS = "the budget holds it in full precision"
_SPELLED = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp64"}


@dataclass(frozen=True)
class Wish:
    """What is asked for: at most `max_bytes`, each layer in one of `candidates` or as it is.

    Of schemes that are about as good, `preferred` is taken. `keep`, `dtype`: as in `choose`.
    `inputs`: measured mean squares of the input channels by layer name, where there are any.
    """

    max_bytes: int
    candidates: tuple[str, ...]
    preferred: str
    keep: tuple[str, ...] = ()
    dtype: str | None = None
    device: str = "cpu"
    rounding: str = NEAREST
    inputs: Mapping[str, torch.Tensor] | None = None


@dataclass(frozen=True)
class Layered:
    """A layer that can be stored in several ways: the preferred scheme first, as it is last."""

    index: int  # in the model
    layer: Layer
    choices: tuple[Choice, ...]
    bytes: tuple[int, ...]
    touched: bool  # by a LoRA

    @property
    def schemes(self) -> tuple[str, ...]:
        """The scheme of each way."""
        return tuple(choice.scheme for choice in self.choices)


@dataclass(frozen=True)
class Ways:
    """Every layer as it would stay, and those that can be stored otherwise."""

    rest: tuple[Choice, ...]
    varied: tuple[Layered, ...]

    def spread(
        self, chosen: Sequence[int], told: Sequence[str] | None = None
    ) -> tuple[Choice, ...]:
        """One choice for every layer of the model; `told`: the reasons of the varied ones."""
        choices = list(self.rest)
        for i, (way, option) in enumerate(zip(self.varied, chosen, strict=True)):
            picked = way.choices[option]
            choices[way.index] = replace(picked, why=told[i]) if told else picked
        return tuple(choices)

    def options(self, weighed: Sequence[Mapping[str, Weighed]] | None = None) -> list[list[Option]]:
        """Bytes and cost of each way; without errors, bytes alone.

        A scheme that is hardly better than the preferred one of its size counts as no better.
        """
        found = []
        for i, way in enumerate(self.varied):
            costs = [0.0] * len(way.choices)
            if weighed is not None:
                costs = [weighed[i][scheme].cost for scheme in way.schemes]
                first, size = costs[0], way.bytes[0]
                alike = [abs(b - size) <= size / 100 for b in way.bytes]
                costs = [
                    first if same and NEARLY * first <= cost <= first else cost
                    for cost, same in zip(costs, alike, strict=True)
                ]
            found.append([Option(b, c) for b, c in zip(way.bytes, costs, strict=True)])
        return found

    def only(self, candidates: Sequence[str]) -> Ways:
        """The same for fewer schemes; a layer may always stay as it is."""
        varied = []
        for way in self.varied:
            left = [i for i, s in enumerate(way.schemes) if s == "none" or s in candidates]
            choices = tuple(way.choices[i] for i in left)
            varied.append(replace(way, choices=choices, bytes=tuple(way.bytes[i] for i in left)))
        return Ways(self.rest, tuple(varied))

    def uniform(self, scheme: str) -> list[int]:
        """Every layer in one scheme where it may be, else as it is."""
        return [
            way.schemes.index(scheme) if scheme in way.schemes else len(way.choices) - 1
            for way in self.varied
        ]


def ways_of(model: Model, fused: Fused, wish: Wish) -> Ways:
    """Every way to store each layer that the family, the shapes and `wish` allow."""
    ordered = sorted(wish.candidates, key=lambda name: name != wish.preferred)
    by_scheme = [choose(model, name, keep=wish.keep, dtype=wish.dtype) for name in ordered]
    rest = list(choose(model, "none", keep=wish.keep, dtype=wish.dtype))
    varied = []
    for index, stays in enumerate(rest):
        found = [choices[index] for choices in by_scheme if choices[index].scheme != "none"]
        if not found:
            rest[index] = by_scheme[0][index] if by_scheme else stays
            continue
        touched, choices = stays.layer.key in fused.changes, (*found, stays)
        sizes = tuple(_bytes_of(choice, touched, model.written_prefix) for choice in choices)
        varied.append(Layered(index, stays.layer, choices, sizes, touched))
    return Ways(tuple(rest), tuple(varied))


def _bytes_of(choice: Choice, touched: bool, prefix: str) -> int:
    """The bytes of a layer's tensors, and about those of their lines in the header."""
    tensors = output_of(choice, touched, prefix).tensors.values()
    lines = (len(spec.name) + len(str(spec.shape)) + HEADER_LINE_BYTES for spec in tensors)
    return sum(spec.size_bytes for spec in tensors) + sum(lines)


def refuse_too_small(wish: Wish, least: int, whole: int) -> None:
    """Refuse a budget below the size of the smallest file, and say that size."""
    if least <= wish.max_bytes:
        return
    raise Refused(
        "budget-too-small",
        found=f"{wish.max_bytes / 1e9:.10g} GB",
        expected=f"at least {_gigabytes(least)}, where each layer has the smallest of "
        f"{', '.join(wish.candidates)} ({_gigabytes(whole)} unquantized)",
        fix="allow more bytes, keep fewer layers, or let smaller schemes in: scheme auto, and "
        "--loads-in fusequant for a file that is opened by Load FP8 DiT",
    )


def unlimited(max_bytes: int, whole: int) -> Budget:
    """A budget that has nothing to decide."""
    return Budget(
        max_bytes,
        "nothing had to be measured",
        None,
        warnings=(
            f"{max_bytes / 1e9:.10g} GB hold every layer unquantized, which takes "
            f"{_gigabytes(whole)}: there is nothing to quantize",
        ),
    )


def _gigabytes(count: int) -> str:
    """GB with four digits, rounded up, so that what is said to be enough is enough."""
    unit = 10 ** max(0, len(str(count)) - 4)
    return f"{-(-count // unit) * unit / 1e9:.6g} GB"


def why(way: Layered, found: Mapping[str, Weighed], picked: int) -> str:
    """The error and the bytes of what a layer gets, and those of the next better or smaller way."""

    def told(i: int) -> str:
        return f"{_spelled(way.choices[i])}: {found[way.schemes[i]].error:.4f} at {_size(way, i)}"

    cost, size = found[way.schemes[picked]].cost, way.bytes[picked]
    every = range(len(way.choices))
    up = [i for i in every if way.bytes[i] > size and found[way.schemes[i]].cost < cost]
    if up:
        least = min(way.bytes[i] for i in up)
        near = [i for i in up if way.bytes[i] <= 1.03 * least]
        first = min(near, key=lambda i: found[way.schemes[i]].cost)
        return f"{told(picked)}; {_spelled(way.choices[first])} would cost {_size(way, first)}"
    down = [i for i in every if way.bytes[i] < size]
    if down:
        last = max(down, key=lambda i: (way.bytes[i], -found[way.schemes[i]].cost))
        return f"{told(picked)}; {told(last)}"
    return told(picked)


def _size(way: Layered, i: int) -> str:
    return f"{way.bytes[i] / 1e6:.1f} MB"


def _spelled(choice: Choice) -> str:
    """`none` is no word for a reader: the dtype that it stays in."""
    return _SPELLED.get(choice.dtype, choice.dtype) if choice.scheme == "none" else choice.scheme
