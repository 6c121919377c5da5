"""Nodes and links as a family wires them in, one graph out, before it is laid out and written.

graph = Graph()
with graph.step("Load"):
    model = graph.add("FQLoadDiT", file="a.safetensors", scheme="as stored")
with graph.step("Quantize"):
    graph.add("FQQuantizeModel", model=model, scheme="int8")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .models import File
from .node_types import MATCHED, Input, NodeType, node_types

# what a workflow may do, in the order in which it is done: the titles of the groups
STEPS = (
    "Load", "Convert", "Advise", "Fuse LoRA", "Quantize", "Live LoRA", "VRAM", "Prompt", "Sample",
    "Measure",
)  # fmt: skip


@dataclass(frozen=True)
class Out:
    """One output of a node."""

    node: Node
    slot: int

    @property
    def kind(self) -> str:
        """The type that flows through it."""
        output = self.node.type.outputs[self.slot]
        if not output.follows:
            return output.kind
        matched = next(one for one in self.node.type.inputs if one.kind == MATCHED)
        return self.node.links[matched.name].kind


@dataclass(eq=False)
class Node:
    """A node of a graph. Given as an input it stands for its first output."""

    id: int
    type: NodeType
    step: str
    title: str | None
    values: dict[str, Any] = field(default_factory=dict)
    links: dict[str, Out] = field(default_factory=dict)
    files: list[File] = field(default_factory=list)

    def out(self, name: str) -> Out:
        """An output by its name."""
        names = [output.name for output in self.type.outputs]
        return Out(self, names.index(name))

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Every input as the frontend orders them."""
        return self.type.brought(self.values)

    def value(self, one: Input) -> Any:
        """What a widget says."""
        return self.values.get(one.name, one.default)

    @property
    def shows_advanced(self) -> bool:
        """Whether an advanced widget says something that its default does not."""
        return any(
            one.is_widget and one.told.get("advanced") and self.value(one) != one.default
            for one in self.inputs
        )


@dataclass(frozen=True)
class Note:
    """A note beside the graph."""

    title: str
    text: str


@dataclass
class Graph:
    """A growing graph. `steps`: those that hold nodes, in their order."""

    nodes: list[Node] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    _step: str = ""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What is added inside belongs to this step."""
        if name not in STEPS:
            raise ValueError(f"{name} is none of {STEPS}")
        before, self._step = self._step, name
        try:
            yield
        finally:
            self._step = before

    def add(self, node: str, /, title: str | None = None, **given: Any) -> Node:
        """A node; an input is a node, an output, a file of the table or a value."""
        made = Node(len(self.nodes) + 1, node_types()[node], self._step, title)
        for name, value in given.items():
            if isinstance(value, Node):
                value = Out(value, 0)
            if isinstance(value, Out):
                made.links[name] = value
                continue
            if isinstance(value, File):
                made.files.append(value)
                value = value.name
            made.values[name] = value
        _check(made)
        self.nodes.append(made)
        return made

    def note(self, title: str, text: str) -> None:
        """A note beside the graph."""
        self.notes.append(Note(title, text))

    @property
    def steps(self) -> list[str]:
        """The steps that hold nodes, in the order of STEPS."""
        used = {node.step for node in self.nodes}
        return [name for name in STEPS if name in used]

    def title(self, step: str) -> str:
        """`2 Fuse LoRA`."""
        return f"{self.steps.index(step) + 1} {step}"

    @property
    def files(self) -> list[File]:
        """Every file that the nodes name, once."""
        return list(dict.fromkeys(file for node in self.nodes for file in node.files))


def _check(node: Node) -> None:
    """Names that the node has, values that its lists have, no socket left open that must not be."""
    known = {one.name: one for one in node.inputs}
    unknown = [name for name in (*node.values, *node.links) if name not in known]
    if unknown:
        raise ValueError(f"{node.type.name} has no {', '.join(unknown)}: it has {', '.join(known)}")
    for name, one in known.items():
        if not one.is_widget and not one.optional and name not in node.links:
            raise ValueError(f"{node.type.name}.{name} is not connected")
        value = node.value(one)
        listed = one.is_widget and one.choices and not one.told.get("files")
        if listed and name not in node.links and value not in one.choices:
            raise ValueError(f"{node.type.name}.{name}: {value} is none of {one.choices[:40]}")
