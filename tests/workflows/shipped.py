"""The shipped workflow files in; by name, the prompt that each posts, and its state out.

A file's widgets are read by name, as the editor saves them beside the list by position.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows"
STATES = Path(__file__).with_name("states.json")
NOTES = frozenset(("MarkdownNote", "Note"))
NOT_POSTED = frozenset(("control_after_generate", "upload"))  # widgets of the editor alone
ORDER = ("executed", "browser")

Prompt = dict[str, dict[str, Any]]


def names() -> list[str]:
    """Every shipped workflow."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@cache
def _text(name: str) -> str:
    return (FOLDER / f"{name}.json").read_text(encoding="utf-8")


def workflow(name: str) -> dict[str, Any]:
    """The file as it is."""
    return dict(json.loads(_text(name)))


def prompt(name: str) -> Prompt:
    """Node id -> class and inputs: what the editor posts."""
    file = workflow(name)
    ends = {link[0]: [str(link[1]), link[2]] for link in file["links"]}
    made: Prompt = {}
    for node in file["nodes"]:
        if node["type"] in NOTES:
            continue
        links = {one["name"]: ends[one["link"]] for one in node["inputs"] if one["link"]}
        values = node.get("widgets_values_named", {})
        inputs = {key: value for key, value in values.items() if key not in NOT_POSTED | set(links)}
        made[str(node["id"])] = {"class_type": node["type"], "inputs": inputs | links}
    return made


def folders(name: str) -> dict[str, str]:
    """File -> its models folder, as the nodes name them for the download dialog."""
    links = [
        link for node in workflow(name)["nodes"] for link in node["properties"].get("models", ())
    ]
    return {link["name"]: link["directory"] for link in links}


def family(name: str) -> str:
    """`image_flux1-dev_text-to-image_int8-convrot_8gb` -> flux1."""
    return name.split("_")[1].split("-")[0]


def sample() -> list[str]:
    """The fewest workflows, taken greedily, in which every family and every node of ours stands."""
    covers = {
        name: {family(name)} | {node["class_type"] for node in prompt(name).values()
                                if node["class_type"].startswith("FQ")}
        for name in names()
    }  # fmt: skip
    left, taken = set().union(*covers.values()), []
    while left:
        best = max(covers, key=lambda name: (len(covers[name] & left), name))
        taken.append(best)
        left -= covers[best]
    return sorted(taken)


def states() -> dict[str, dict[str, str]]:
    """Name -> {"executed": "yes" or why not, "browser": likewise}."""
    found: dict[str, dict[str, str]] = json.loads(STATES.read_text(encoding="utf-8"))
    return found


def record(found: Mapping[str, Mapping[str, str]]) -> None:
    """Add what a run found; workflows that are no longer shipped go away."""
    known = states() if STATES.is_file() else {}
    whole = {name: {**known.get(name, {}), **found.get(name, {})} for name in names()}
    ordered = {name: {key: whole[name][key] for key in ORDER if key in whole[name]}
               for name in names()}  # fmt: skip
    STATES.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
