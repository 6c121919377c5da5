"""What a family hands over: a named graph, what it is for, and what the Advisor said."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .graph import Graph
from .models import File
from .tiers import Choice

NAME = re.compile(r"[a-z]+(_[a-z0-9-]+){4}")  # media_model_task_scheme_tier


def dashed(scheme: str) -> str:
    """A scheme as it stands in a name."""
    return "bf16" if scheme == "none" else scheme.replace("_", "-")


@dataclass(frozen=True)
class Workflow:
    """One shipped workflow. `choices`: what its values come from; none where nothing is chosen.

    `changes`: lines of the note that says what to change for another card.
    """

    name: str
    purpose: str
    graph: Graph
    card: str
    choices: tuple[Choice, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def files(self) -> list[File]:
        """What must be downloaded."""
        return self.graph.files

    @property
    def download_gb(self) -> float:
        """Of the files whose size is known."""
        return round(sum(file.size_gb or 0.0 for file in self.files), 1)

    @property
    def unsized(self) -> int:
        """Files whose size is not known."""
        return sum(file.size_gb is None for file in self.files)
