"""A format: how a checkpoint spells its layers on disk. One file in `formats/` each: FORMAT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .layer import Layer
from .problem import Problem
from .source import Source


@dataclass(frozen=True)
class Contents:
    """Every parameter of a source once, under the file's own names, and what is wrong."""

    format: str
    layers: tuple[Layer, ...]
    problems: tuple[Problem, ...] = ()
    ignored: tuple[str, ...] = ()  # tensors that carry nothing a model needs (markers, workspaces)


@dataclass(frozen=True)
class Format:
    """`detect` looks at names, dtypes and shapes only and answers for exactly its own files.

    `split` lists the layers; for a dialect that is recognised but not read it raises Refused.
    `core_reads`: stock ComfyUI opens such a file with the right numbers.
    """

    name: str
    title: str
    detect: Callable[[Source], bool]
    split: Callable[[Source], Contents]
    core_reads: bool = False
    notes: tuple[str, ...] = field(default=())
