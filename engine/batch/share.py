"""Planned recipes and a machine in, how many run side by side and with how much of it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import Refused
from .entry import Trouble
from .plan import PROCESS_BYTES, Planned

CORES_EACH = 4  # what one conversion makes good use of; two run at least, so that starts overlap


@dataclass(frozen=True)
class Shares:
    """`at_once` recipes side by side; `layers[name]` layers at once for each."""

    at_once: int
    layers: dict[str, int]


def shares(
    recipes: Sequence[Planned], jobs: int | None, cores: int | None, memory_bytes: int
) -> tuple[Shares, list[Trouble]]:
    """Cores divided among the recipes that run side by side; fewer for those short of memory.

    `cores` None: a cluster, whose machines are not known here, takes as many as it holds.
    """
    usual = max(2, cores // CORES_EACH) if cores else len(recipes)
    at_once = min(jobs or usual, max(1, len(recipes)))
    share = max(1, cores // at_once) if cores else CORES_EACH
    layers, troubles = {}, []
    for recipe in recipes:
        found = recipe.layers_at_once(share, memory_bytes)
        if found is None:
            troubles.append(Trouble(recipe.name, _too_large(recipe, memory_bytes)))
        else:
            layers[recipe.name] = found
    return Shares(at_once, layers), troubles


def _too_large(recipe: Planned, memory_bytes: int) -> Refused:
    return Refused(
        "over-memory",
        found=f"{recipe.need_bytes(1) / 1e9:.2f} GB needed, {PROCESS_BYTES / 1e9:.2f} GB of them "
        "by any process that loads torch",
        expected=f"no more than {memory_bytes / 1e9:.2f} GB",
        fix="raise --memory",
    )
