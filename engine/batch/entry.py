"""What a batch is made of before anything is opened: recipes, their files, what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Refused


@dataclass(frozen=True)
class Lora:
    """A LoRA to fuse."""

    path: Path
    strength: float = 1.0
    rslora: bool = False


@dataclass(frozen=True)
class Part:
    """One file to make. `name` tells the files of a recipe apart and is "" where there is one.

    `options` are fields of `pipeline.Request`, `scheme` and `device` always among them.
    """

    name: str
    source: Path
    loras: tuple[Lora, ...]
    options: Mapping[str, Any]
    out: Path


@dataclass(frozen=True)
class Entry:
    """One recipe: a file, or several that are done or failed together."""

    name: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Trouble:
    """Why a recipe cannot be done; `recipe` "" means the whole file of recipes."""

    recipe: str
    refusal: Refused


class BatchRefused(Refused):
    """Everything that is wrong with a batch, told together."""

    def __init__(self, path: Path, troubles: Sequence[Trouble]) -> None:
        self.troubles = tuple(troubles)
        super().__init__(
            "batch-refused",
            found="\n".join([f"{len(troubles)} in {path.name}:", *map(_line, troubles)]),
            expected="recipes that can all be done",
            fix="correct these; or --keep-going, to do the other recipes without them",
        )

    def to_json(self) -> dict[str, Any]:
        """The shape of every refusal, and each problem in the same shape beside it."""
        told = [{"recipe": x.recipe or None, **x.refusal.to_json()} for x in self.troubles]
        return {**super().to_json(), "problems": told}


def _line(trouble: Trouble) -> str:
    refusal = trouble.refusal
    where = f"{trouble.recipe}: " if trouble.recipe else ""
    layer = f" in {refusal.layer}" if refusal.layer else ""
    return (
        f"    {where}{refusal.kind}{layer}: {refusal.found}; "
        f"expected {refusal.expected}; {refusal.fix}"
    )
