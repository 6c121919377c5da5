"""A graph in; the JSON of ComfyUI's editor and the prompt that its server runs out."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from .graph import Graph, Node, Note, Out
from .layout import Box, layout
from .node_types import CONTROL, NOTE, UPLOAD, Input

ROOT = Path(__file__).resolve().parents[1]
CORE_ID, CORE_VERSION = "comfy-core", "0.33.0"
OUR_ID = "fusequant"
FRONTEND = "1.49.6"  # whose form is written
OPTIONAL_SHAPE, LIST_SHAPE = 7, 6
GROUP_COLOR, NOTE_COLOR, NOTE_BACKGROUND = "#3f789e", "#222", "#000"
SCREEN = (1800, 900)  # what a workflow is seen in when it is opened
SEED_CONTROL = "randomize"

Links = dict[tuple[Node, str], int]


@cache
def our_version() -> str:
    """The version in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise ValueError("pyproject.toml names no version")
    return found[1]


def editor_json(name: str, graph: Graph) -> dict[str, Any]:
    """What the editor saves: schema 0.4."""
    placed = layout(graph)
    links = _links(graph)
    order = _order(graph)
    nodes = [
        _node(node, links, order[node] + len(graph.notes), placed.nodes[node])
        for node in graph.nodes
    ]
    first = len(graph.nodes) + 1
    nodes += [
        _note(note, first + number, number, placed.notes[note])
        for number, note in enumerate(graph.notes)
    ]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{OUR_ID}/{name}")),
        "revision": 0,
        "last_node_id": first + len(graph.notes) - 1,
        "last_link_id": len(links),
        "nodes": nodes,
        "links": [
            [number, out.node.id, out.slot, node.id, _slot(node, name), out.kind]
            for (node, name), number in links.items()
            for out in (node.links[name],)
        ],
        "groups": [
            {
                "id": number, "title": title, "bounding": list(box), "color": GROUP_COLOR,
                "flags": {},
            }
            for number, (title, box) in enumerate(placed.groups, start=1)
        ],
        "config": {},
        "extra": {
            "ds": _view(placed.bounds), "frontendVersion": FRONTEND,
            "workflowRendererVersion": "LG",
        },
        "version": 0.4,
    }  # fmt: skip


def text(value: dict[str, Any]) -> str:
    """JSON with a node, a link or a group a line."""
    lines = []
    for key, found in value.items():
        if isinstance(found, list) and found:
            inner = ",\n  ".join(json.dumps(one, ensure_ascii=False) for one in found)
            lines.append(f"{json.dumps(key)}: [\n  {inner}\n ]")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(found, ensure_ascii=False)}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def prompt_json(graph: Graph) -> dict[str, Any]:
    """What /prompt takes: every widget's value, every link."""
    made = {}
    for node in graph.nodes:
        inputs: dict[str, Any] = {
            one.name: node.value(one)
            for one in node.inputs
            if one.is_widget and one.name not in node.links
        }
        inputs |= {name: [str(out.node.id), out.slot] for name, out in node.links.items()}
        made[str(node.id)] = {
            "class_type": node.type.name,
            "inputs": inputs,
            "_meta": {"title": node.title or node.type.title},
        }
    return made


def _links(graph: Graph) -> Links:
    """(node, input): number."""
    ends = [(node, one.name) for node in graph.nodes for one in node.inputs]
    wired = [(node, name) for node, name in ends if name in node.links]
    return {end: number for number, end in enumerate(wired, start=1)}


def _slot(node: Node, name: str) -> int:
    return [one["name"] for one in _inputs(node, {})].index(name)


def _order(graph: Graph) -> dict[Node, int]:
    """In which order the nodes can run: after everything that they read."""
    found: dict[Node, int] = {}

    def visit(node: Node) -> None:
        if node in found:
            return
        for out in node.links.values():
            visit(out.node)
        found[node] = len(found)

    for node in graph.nodes:
        visit(node)
    return found


def _node(node: Node, links: Links, order: int, box: Box) -> dict[str, Any]:
    values = list(_values(node))
    properties: dict[str, Any] = {
        "Node name for S&R": node.type.name,
        "cnr_id": OUR_ID if node.type.ours else CORE_ID,
        "ver": our_version() if node.type.ours else CORE_VERSION,
    }
    if node.files:
        properties["models"] = [file.link for file in node.files]
    return {
        "id": node.id,
        "type": node.type.name,
        "pos": list(box[:2]),
        "size": list(box[2:]),
        "flags": {},
        "order": order,
        "mode": 0,
        **({"showAdvanced": True} if node.shows_advanced else {}),
        "inputs": _inputs(node, links),
        "outputs": _outputs(node, links),
        **({"title": node.title} if node.title else {}),
        "properties": properties,
        **_widgets(values),
    }


def _widgets(values: list[tuple[str, Any]]) -> dict[str, Any]:
    """Values by place and by name; the editor saves neither of a node without widgets."""
    if not values:
        return {}
    by_place = [value for _, value in values]
    return {"widgets_values": by_place, "widgets_values_named": dict(values)}


def _inputs(node: Node, links: Links) -> list[dict[str, Any]]:
    """Sockets, then an entry for each widget, as the editor saves them."""
    made = []
    for one in node.inputs:
        entry: dict[str, Any] = {"localized_name": one.name, "name": one.name}
        if one.nested and not one.is_widget:
            entry["label"] = one.name.rpartition(".")[2]
        if one.optional:
            entry["shape"] = OPTIONAL_SHAPE
        entry["type"] = one.wire
        if one.is_widget:
            entry["widget"] = {"name": one.name}
        made.append({**entry, "link": links.get((node, one.name))})
        if one.uploads:
            made.append(_upload())
    return made


def _upload() -> dict[str, Any]:
    return {
        "localized_name": "choose file to upload", "name": UPLOAD, "type": "IMAGEUPLOAD",
        "widget": {"name": UPLOAD}, "link": None,
    }  # fmt: skip


def _outputs(node: Node, links: Links) -> list[dict[str, Any]]:
    made = []
    for slot, output in enumerate(node.type.outputs):
        used = [
            number
            for (reader, name), number in links.items()
            if (reader.links[name].node, reader.links[name].slot) == (node, slot)
        ]
        entry: dict[str, Any] = {"localized_name": output.name, "name": output.name}
        if output.is_list:
            entry["shape"] = LIST_SHAPE
        made.append({**entry, "type": Out(node, slot).kind, "links": used or None})
    return made


def _values(node: Node) -> Iterator[tuple[str, Any]]:
    """(widget, value) in the order of the widgets, with those that the editor adds."""
    for one in node.inputs:
        if not one.is_widget:
            continue
        yield one.name, node.value(one)
        if one.controlled:
            yield CONTROL, _control(one)
        if one.uploads:
            yield UPLOAD, "image"


def _control(one: Input) -> str:
    return SEED_CONTROL if one.told.get(CONTROL) else "fixed"


def _note(note: Note, number: int, order: int, box: Box) -> dict[str, Any]:
    return {
        "id": number,
        "type": NOTE,
        "pos": list(box[:2]),
        "size": list(box[2:]),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": note.title,
        "properties": {},
        **_widgets([("text", note.text)]),
        "color": NOTE_COLOR,
        "bgcolor": NOTE_BACKGROUND,
    }


def _view(bounds: Box) -> dict[str, Any]:
    """Scale and offset that show everything."""
    x, y, width, height = bounds
    scale = round(min(1.0, SCREEN[0] / width, SCREEN[1] / height), 3)
    return {"scale": scale, "offset": [-x + 60, -y + 80]}
