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
class Plan:
    """The choices for every layer of a model, with the predicted size of file and work."""

    family: str
    choices: tuple[Choice, ...]
    bytes: int
    peak_private_bytes: int
    vram_bytes: int
    warnings: tuple[str, ...] = ()
