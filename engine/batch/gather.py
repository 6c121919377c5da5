"""A file of recipes in, the entries that can be planned out; what is wrong is told at once.

Torch is not imported: a misspelled key or a broken file is told in a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .checks import check
from .entry import BatchRefused, Entry, Trouble
from .recipes import read_recipes


def gather(
    path: Path, *, remote: bool = False, keep_going: bool = False
) -> tuple[list[Entry], list[Trouble]]:
    """Entries, and with `keep_going` the troubles of the recipes that are left out.

    `remote`: devices are those of other machines.
    """
    entries, troubles = read_recipes(path, remote=remote)
    troubles += check(entries)
    settle(path, troubles, keep_going)
    lost = {trouble.recipe for trouble in troubles}
    return [entry for entry in entries if entry.name not in lost], troubles


def settle(path: Path, troubles: Sequence[Trouble], keep_going: bool) -> None:
    """Refuse the batch for any trouble, or with `keep_going` for one of the whole batch only."""
    if any(not trouble.recipe or not keep_going for trouble in troubles):
        raise BatchRefused(path, troubles)
