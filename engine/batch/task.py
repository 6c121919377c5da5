"""One recipe as another process gets it, and what that process answers: plain JSON both ways."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from .entry import Lora, Part

if TYPE_CHECKING:
    from .plan import Planned

DONE, REFUSED, FAILED = "done", "refused", "failed"

Json = dict[str, Any]


@dataclass(frozen=True)
class TaskPart:
    """A file to make, the recipe that its header will have, and its size."""

    part: Part
    recipe: str
    bytes: int


@dataclass(frozen=True)
class Task:
    """`staging` begins the names of the folders that it may write in, beside its outputs."""

    name: str
    parts: tuple[TaskPart, ...]
    staging: str
    layers_at_once: int
    need_bytes: int
    devices: frozenset[str] = frozenset()

    def to_json(self) -> Json:
        """What `task_of` reads."""
        return {
            "name": self.name,
            "staging": self.staging,
            "layers_at_once": self.layers_at_once,
            "need_bytes": self.need_bytes,
            "devices": sorted(self.devices),
            "parts": [_part_to_json(part) for part in self.parts],
        }


@dataclass(frozen=True)
class Outcome:
    """How a recipe ended. `facts`: files, host and torch when done, else kind, found, fix."""

    state: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, refusal: Refused, state: str = REFUSED) -> Outcome:
        """The outcome that a refusal is."""
        return cls(state, refusal.to_json())

    def to_json(self) -> Json:
        """What `Outcome(**...)` reads."""
        return {"state": self.state, "facts": dict(self.facts)}


def task_from(recipes: Path, planned: Planned, layers_at_once: int) -> Task:
    """The task of a planned recipe of a file of recipes."""
    return Task(
        name=planned.name,
        parts=tuple(TaskPart(x.part, x.recipe, x.bytes) for x in planned.parts),
        staging=f"{staging_of(recipes)}{_short(planned.name)}-",
        layers_at_once=layers_at_once,
        need_bytes=planned.need_bytes(layers_at_once),
        devices=planned.devices,
    )


def staging_of(recipes: Path) -> str:
    """How the names of all folders begin that a run of these recipes writes in."""
    return f".fusequant-batch-{_short(os.path.realpath(recipes))}-"


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def task_of(facts: Mapping[str, Any]) -> Task:
    """The task that `to_json` told."""
    return Task(
        name=facts["name"],
        parts=tuple(_part_of(part) for part in facts["parts"]),
        staging=facts["staging"],
        layers_at_once=facts["layers_at_once"],
        need_bytes=facts["need_bytes"],
        devices=frozenset(facts["devices"]),
    )


def _part_to_json(task: TaskPart) -> Json:
    part = task.part
    return {
        "name": part.name,
        "source": str(part.source),
        "loras": [[str(x.path), x.strength, x.rslora] for x in part.loras],
        "options": dict(part.options),
        "out": str(part.out),
        "recipe": task.recipe,
        "bytes": task.bytes,
    }


def _part_of(facts: Mapping[str, Any]) -> TaskPart:
    options = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in facts["options"].items()
    }
    loras = tuple(Lora(Path(path), *how) for path, *how in facts["loras"])
    part = Part(facts["name"], Path(facts["source"]), loras, options, Path(facts["out"]))
    return TaskPart(part, facts["recipe"], facts["bytes"])
