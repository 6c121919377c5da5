"""What ComfyUI is told about the nodes in, its recorded form and readable differences out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 100
HOST_LIST = "ComfyUI's own list on this machine"
# choices that come from ComfyUI, whose versions and packages differ: only that there is a list
FROM_HOST = {
    ("FQSpeed", "attention"),
    ("FQLoadTextEncoder", "type"),
    ("FQBenchmark", "sampler"),
    ("FQBenchmark", "scheduler"),
    ("FQQuality", "sampler"),
    ("FQQuality", "scheduler"),
}
# what is compared: no place on disk, and nothing that only some versions of ComfyUI say
FIELDS = (
    "name", "display_name", "category", "description", "search_aliases", "input", "input_order",
    "is_input_list", "output", "output_name", "output_is_list", "output_tooltips",
    "output_matchtypes", "output_node", "deprecated", "experimental",
)  # fmt: skip


def recorded(infos: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{node id: GET_NODE_INFO_V1} -> what the contract file holds: ids sorted, no empty field."""
    return {
        name: {
            key: _plain(name, "", infos[name][key])
            for key in FIELDS
            if infos[name].get(key) is not None
        }
        for name in sorted(infos)
    }


def _plain(node: str, key: str, value: Any) -> Any:
    """JSON values; lists that ComfyUI made are named, not copied."""
    if isinstance(value, Mapping):
        made = {str(inner): _plain(node, str(inner), found) for inner, found in value.items()}
        if isinstance(made.get("options"), list):
            made["options"] = _folded(made["options"])
        return made
    if (node, key) in FROM_HOST and isinstance(value, list | tuple) and len(value) == 2:
        return [
            value[0],
            {**_plain(node, "", value[1]), "options": HOST_LIST, "default": HOST_LIST},
        ]
    if isinstance(value, list | tuple):
        return [_plain(node, "", found) for found in value]
    return value


def _folded(options: list[Any]) -> list[Any]:
    """An option that brings all that the one before it brings says so, and what it adds."""
    found = options[:1]
    for before, option in itertools.pairwise(options):
        brought = _brought(before)
        if brought and brought.items() <= _brought(option).items():
            added = {
                group: {name: one for name, one in inputs.items() if (group, name) not in brought}
                for group, inputs in option["inputs"].items()
            }
            option = {**option, "inputs": {"as before": before["key"], **added}}
        found.append(option)
    return found


def _brought(option: Any) -> dict[tuple[str, str], str]:
    """{(group, name): input} that an option of a dynamic choice brings."""
    if not isinstance(option, dict) or "inputs" not in option:
        return {}
    return {
        (group, name): json.dumps(one)
        for group, inputs in option["inputs"].items()
        for name, one in inputs.items()
    }


def text(value: Any, indent: int = 0) -> str:
    """JSON, each object and list on one line where it fits."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= WIDTH or not isinstance(value, dict | list):
        return flat
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        inner = [f"{json.dumps(key)}: {text(found, indent + 1)}" for key, found in value.items()]
    else:
        inner = [text(found, indent + 1) for found in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    lines = f",\n{pad}".join(inner)
    return f"{first}\n{pad}{lines}\n{' ' * indent}{last}"


def differences(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """One line for each thing that is gone, added or changed, by its path."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            path = f"{at}.{key}" if at else str(key)
            if key not in new:
                yield f"gone     {path} (was {_short(old[key])})"
            elif key not in old:
                yield f"added    {path}: {_short(new[key])}"
            else:
                yield from differences(old[key], new[key], path)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _list_differences(old, new, at)
    elif old != new:
        yield f"changed  {at}: {_short(old)} -> {_short(new)}"


def _list_differences(old: list[Any], new: list[Any], at: str) -> Iterator[str]:
    if len(old) == len(new) and not all(isinstance(one, str) for one in [*old, *new]):
        for index, (was, now) in enumerate(zip(old, new, strict=True)):
            named = was.get("key", index) if isinstance(was, dict) else index
            yield from differences(was, now, f"{at}[{named}]")
        return
    gone, added = [x for x in old if x not in new], [x for x in new if x not in old]
    yield from (f"gone     {at}: {_short(one)}" for one in gone)
    yield from (f"added    {at}: {_short(one)}" for one in added)
    if old != new and not gone and not added:
        yield f"changed  {at}: another order"


def _short(value: Any) -> str:
    flat = json.dumps(value, ensure_ascii=False)
    return flat if len(flat) <= WIDTH else flat[: WIDTH - 4] + " ..."
