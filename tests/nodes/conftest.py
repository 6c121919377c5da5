"""What ComfyUI is told about the nodes of the pack, asked once in its own interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..live.comfy import HOW, Comfy, find
from ..live.inprocess import run_inside

HERE = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--accept` writes the contract file in the place of comparing with it."""
    parser.addoption("--accept", action="store_true", help="record the nodes as they are now")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests here that need a ComfyUI are live ones, skipped where there is none."""
    absent = find() is None
    for item in items:
        names = getattr(item, "fixturenames", ())
        if HERE in Path(item.path).parents and "comfy" in names:
            item.add_marker("live")
            if absent:
                item.add_marker(pytest.mark.skip(reason=HOW))


@pytest.fixture(scope="session")
def comfy() -> Comfy:
    """The ComfyUI of this machine."""
    found = find()
    if found is None:
        pytest.skip(HOW)
    return found


@dataclass(frozen=True)
class Input:
    """One input of a node, by its place in the schema; nested ones have a dot in their name."""

    name: str
    kind: str
    optional: bool
    facts: dict[str, Any]
    place: int

    @property
    def nested(self) -> bool:
        """Whether a choice of another input brings it."""
        return "." in self.name


@dataclass(frozen=True)
class Node:
    """A node as ComfyUI describes it to a browser."""

    id: str
    module: str
    info: dict[str, Any]

    def inputs(self) -> list[Input]:
        """Every input but hidden ones, as a reader sees them; nested ones after their parent."""
        order = [*self.info["input_order"].get("required", ())]
        order += self.info["input_order"].get("optional", ())
        return [
            found
            for place, name in enumerate(order)
            for found in _inputs(self.info["input"], name, "", place)
        ]

    def outputs(self) -> list[tuple[str, str | None]]:
        """(name, tooltip) of every output."""
        return list(zip(self.info["output_name"], self.info["output_tooltips"], strict=True))


def _inputs(groups: dict[str, Any], name: str, prefix: str, place: int) -> Iterator[Input]:
    optional = name in groups.get("optional", {})
    kind, *more = groups["optional" if optional else "required"][name]
    facts = dict(more[0]) if more else {}
    yield Input(prefix + name, str(kind), optional, facts, place)
    for option in facts.get("options") or ():
        if isinstance(option, dict) and "inputs" in option:
            inside = option["inputs"]
            for nested in [*inside.get("required", {}), *inside.get("optional", {})]:
                yield from _inputs(inside, nested, f"{prefix}{name}.", place)


@pytest.fixture(scope="session")
def described(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> list[Node]:
    """Every node that loads."""
    lines = run_inside(comfy, "node_contract", base=tmp_path_factory.mktemp("empty"))
    return [Node(line["info"]["name"], line["module"], line["info"]) for line in lines]
