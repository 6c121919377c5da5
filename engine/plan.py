"""A plan: which scheme each layer gets and why, made from headers before any weight is read."""

from __future__ import annotations

from dataclasses import dataclass

from .layer import Layer


@dataclass(frozen=True)
class Choice:
    """What becomes of one layer; `scheme` is `none` for what stays in `dtype`."""

    layer: Layer
    scheme: str
    dtype: str
    why: str


@dataclass(frozen=True)
class Uniform:
    """The file with one scheme for every layer: its bytes and the model's predicted error."""

    scheme: str
    bytes: int
    error: float | None


@dataclass(frozen=True)
class Tried:
    """A layer in one scheme: its bytes, the relative error of its output, LoRA damage (`weigh`)."""

    scheme: str
    bytes: int
    error: float
    damage: float


@dataclass(frozen=True)
class LoraKept:
    """What is left of a LoRA's delta after quantizing: norm over norm before, cosine of both."""

    file: str
    norm_ratio: float
    cosine: float


@dataclass(frozen=True)
class Budget:
    """What a number of bytes buys: `error` is the predicted relative error of the model's output,
    None where `how` the layers were weighed does not tell. `uniform`: the plain files beside it.
    `peak_bytes`: private memory that measuring takes over the process's baseline.
    """

    max_bytes: int
    how: str
    error: float | None
    uniform: tuple[Uniform, ...] = ()
    loras: tuple[LoraKept, ...] = ()
    peak_bytes: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def decides(self) -> bool:
        """Whether there was a choice to make: not where every layer fits unquantized."""
        return bool(self.uniform)


@dataclass(frozen=True)
class Plan:
    """The choices for every layer of a model, with the predicted size of file and work."""

    family: str
    choices: tuple[Choice, ...]
    bytes: int
    peak_private_bytes: int
    vram_bytes: int
    warnings: tuple[str, ...] = ()
    budget: Budget | None = None
