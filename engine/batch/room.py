"""Planned recipes in, the disk that they need against what is free out, one row a device."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused
from .entry import Trouble
from .plan import Planned, PlannedPart

SPARE_BYTES = 16 << 20  # what the writer wants free beside each file it begins


@dataclass(frozen=True)
class Room:
    """One device: `folder` is where the first of its files will be."""

    folder: Path
    needs_bytes: int
    free_bytes: int

    def to_json(self) -> dict[str, object]:
        """A row of the plan."""
        return {
            "folder": str(self.folder),
            "needs_bytes": self.needs_bytes,
            "free_bytes": self.free_bytes,
        }


def rooms(recipes: Sequence[Planned], at_once: int) -> list[Room]:
    """What the recipes still to do need on each device, `at_once` of them side by side.

    A file that takes another's place adds what it is larger by; while both stand, also the rest.
    """
    devices: dict[int, list[tuple[Planned, PlannedPart]]] = {}
    for recipe in recipes:
        for part in recipe.parts:
            folder = standing(part.part.out.parent)
            devices.setdefault(folder.stat().st_dev, []).append((recipe, part))
    found = []
    for files in devices.values():
        both: dict[str, int] = {}
        more = 0
        for recipe, part in files:
            stays = min(part.bytes, part.replaces_bytes)
            more += part.bytes - stays
            both[recipe.name] = both.get(recipe.name, SPARE_BYTES) + stays
        folder = files[0][1].part.out.parent
        needs = more + sum(sorted(both.values())[-at_once:])
        found.append(Room(folder, needs, shutil.disk_usage(standing(folder)).free))
    return found


def standing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(x for x in (folder, *folder.parents) if x.exists())


def too_small(found: Sequence[Room]) -> list[Trouble]:
    """A trouble of the whole batch for each device without enough room."""
    return [
        Trouble(
            "",
            Refused(
                "disk-full",
                found=f"{room.free_bytes / 1e9:.2f} GB free at {room.folder}",
                expected=f"{room.needs_bytes / 1e9:.2f} GB for the files of this batch",
                fix="free some space, or write some of them to another disk",
            ),
        )
        for room in found
        if room.needs_bytes > room.free_bytes
    ]
