"""The recorded nodes in, what a frontend makes of each (sockets, widgets, outputs) out.

Ours come from the contract of the tests, ComfyUI's from core_nodes.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .record import FILES, RECORD

CONTRACT = Path(__file__).resolve().parents[1] / "tests" / "contracts" / "nodes.json"
DYNAMIC, MATCHED = "COMFY_DYNAMICCOMBO_V3", "COMFY_MATCHTYPE_V3"
WIDGETS = frozenset(("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC))
SEEDS = frozenset(("seed", "noise_seed"))  # integers of these names get a control beside them
CONTROL, UPLOAD = "control_after_generate", "upload"
NOTE = "MarkdownNote"


@dataclass(frozen=True)
class Input:
    """One input; `nested`: it belongs to a choice of a dynamic combo, and its name has a dot."""

    name: str
    kind: str
    told: Mapping[str, Any]
    optional: bool
    nested: bool = False

    @property
    def is_widget(self) -> bool:
        """Whether it has a value of its own; the others are sockets alone."""
        return self.kind in WIDGETS and not self.told.get("forceInput")

    @property
    def controlled(self) -> bool:
        """Whether the frontend puts a control for the next seed below it."""
        said = self.told.get(CONTROL)
        return self.kind == "INT" and (self.name in SEEDS if said is None else bool(said))

    @property
    def uploads(self) -> bool:
        """Whether the frontend puts an upload button below it."""
        return bool(self.told.get("image_upload"))

    @property
    def default(self) -> Any:
        """What the frontend shows before anybody changes it."""
        if "default" in self.told:
            return self.told["default"]
        if self.kind in ("COMBO", DYNAMIC):
            return next(iter(self.choices), None)
        return {"STRING": "", "BOOLEAN": False}.get(self.kind, self.told.get("min", 0))

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a combo; none where the list is a machine's own."""
        options = self.told.get("options") or ()
        if isinstance(options, str):
            return ()
        return tuple(x["key"] if self.kind == DYNAMIC else x for x in options)

    @property
    def wire(self) -> str:
        """The type of its socket."""
        return str(self.told["template"]["allowed_types"]) if self.kind == MATCHED else self.kind


@dataclass(frozen=True)
class Output:
    """One output; `follows`: the type is that of what comes in."""

    name: str
    kind: str
    is_list: bool
    follows: bool


@dataclass(frozen=True)
class NodeType:
    """A node that a workflow may use."""

    name: str
    title: str
    ours: bool
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    def brought(self, values: Mapping[str, Any]) -> tuple[Input, ...]:
        """Every input of a node with these values: as the frontend orders them.

        Sockets first, then widgets; what a choice brings stands behind its combo.
        """
        sockets = [one for one in self.inputs if not one.is_widget]
        widgets = [one for one in self.inputs if one.is_widget]
        found = [*sockets]
        for one in widgets:
            found += [one, *_nested(one, values.get(one.name, one.default))]
        return tuple(found)


def _nested(combo: Input, choice: Any) -> Iterator[Input]:
    """The inputs that a choice of a dynamic combo brings."""
    if combo.kind != DYNAMIC:
        return
    options = {option["key"]: option["inputs"] for option in combo.told["options"]}
    for group, name, spec in _unfolded(options, choice):
        yield Input(
            f"{combo.name}.{name}", spec[0], spec[1] if len(spec) > 1 else {},
            group == "optional", nested=True,
        )  # fmt: skip


def _unfolded(options: Mapping[str, Any], key: str) -> list[tuple[str, str, Any]]:
    """(group, name, spec) in order; the contract says once what a growing list repeats."""
    if key not in options:
        return []
    inputs = options[key]
    found = _unfolded(options, inputs["as before"]) if "as before" in inputs else []
    for group in ("required", "optional"):
        found += [(group, name, spec) for name, spec in (inputs.get(group) or {}).items()]
    return sorted(found, key=lambda one: one[0] != "required")


def _inputs(node: str, info: Mapping[str, Any]) -> Iterator[Input]:
    for group in ("required", "optional"):
        specs = info["input"].get(group, {})
        for name in info["input_order"].get(group, specs):
            kind, *told = specs[name]
            said = dict(told[0]) if told else {}
            if (node, name) in FILES:
                said["files"] = True
            yield Input(name, kind, said, group == "optional")


def _node_type(name: str, info: Mapping[str, Any], ours: bool) -> NodeType:
    matched = info.get("output_matchtypes") or [None] * len(info["output"])
    outputs = zip(info["output_name"], info["output"], info["output_is_list"], matched, strict=True)
    return NodeType(
        name=name,
        title=info["display_name"] or name,
        ours=ours,
        inputs=tuple(_inputs(name, info)),
        outputs=tuple(
            Output(said, kind, bool(is_list), follows is not None)
            for said, kind, is_list, follows in outputs
        ),
    )


@cache
def node_types() -> Mapping[str, NodeType]:
    """Every node that a workflow may use, by its name."""
    found = {}
    for path, ours in ((RECORD, False), (CONTRACT, True)):
        for name, info in json.loads(path.read_text(encoding="utf-8")).items():
            found[name] = _node_type(name, info, ours)
    return found
