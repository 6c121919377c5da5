"""The families in, every workflow by its name out, notes included."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache

from . import families
from .notes import notes_of
from .workflow import NAME, Workflow


@cache
def workflows() -> Mapping[str, Workflow]:
    """Every workflow that is shipped; names are unique and say what is in them."""
    found: dict[str, Workflow] = {}
    for workflow in _made():
        if workflow.name in found or not NAME.fullmatch(workflow.name):
            raise ValueError(f"{workflow.name}: there is one already, or it is no name")
        workflow.graph.notes[:] = notes_of(workflow)
        found[workflow.name] = workflow
    return dict(sorted(found.items()))


def _made() -> Iterator[Workflow]:
    for module in pkgutil.iter_modules(families.__path__):
        family = importlib.import_module(f"{families.__name__}.{module.name}")
        yield from family.WORKFLOWS()
