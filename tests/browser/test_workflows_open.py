"""Every shipped workflow opens in ComfyUI's own page as the file says, and posts our prompt.

`make live` opens a few, `make browser` all, and records them in tests/workflows/states.json.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..workflows import shipped
from .comfy_page import ComfyPage, Opened

RECORD, PICTURES = "FUSEQUANT_RECORD_STATES", "FUSEQUANT_SCREENSHOTS"
# a chain with every kind of widget, nested inputs of two nodes, a video, files of a folder
FEW = tuple(
    next(name for name in shipped.names() if part in name)
    for part in ("edit-fused", "benchmark-order", "wan22-i2v_image-to-video", "convert-once")
)
TITLE = 30  # the bar above a node


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, dict[str, str]]]:
    """What became of each; recorded at the end when that is asked for."""
    found: dict[str, dict[str, str]] = {}
    yield found
    if os.environ.get(RECORD):
        shipped.record(found)


def apart(first: dict[str, float], second: dict[str, float]) -> bool:
    """Whether two nodes as the page draws them leave each other free."""
    return (
        first["x"] + first["width"] <= second["x"]
        or second["x"] + second["width"] <= first["x"]
        or first["y"] + first["height"] <= second["y"] - TITLE
        or second["y"] + second["height"] <= first["y"] - TITLE
    )


def check(name: str, opened: Opened) -> None:
    """The page has the file's nodes, values and links, and nothing to complain of."""
    file = shipped.workflow(name)
    assert opened.missing == []
    assert opened.ours == []
    assert opened.dialogs == []
    again = {node["id"]: node for node in opened.serialized["nodes"]}
    for node in file["nodes"]:
        ours = node.get("widgets_values", [])
        assert again[node["id"]].get("widgets_values", []) == ours, node["type"]
        for widget, value in node.get("widgets_values_named", {}).items():
            assert opened.widgets[str(node["id"])][widget] == value, (node["type"], widget)
    posted = {
        node: {"class_type": one["class_type"], "inputs": one["inputs"]}
        for node, one in opened.prompt.items()
    }
    assert posted == shipped.prompt(name)
    drawn = opened.boxes
    overlapping = [
        (first["type"], second["type"])
        for at, first in enumerate(drawn)
        for second in drawn[:at]
        if not apart(first, second)
    ]
    assert overlapping == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FEW else pytest.mark.workflows_all)
        for name in shipped.names()
    ],
)
def test_a_workflow_opens_as_it_is_saved(
    page: ComfyPage, seen: dict[str, dict[str, str]], name: str
) -> None:
    seen[name] = {"browser": "fails"}
    opened = page.open(shipped.workflow(name))
    folder = os.environ.get(PICTURES)
    if folder:
        page.picture(Path(folder) / f"{name}.png")
    check(name, opened)
    seen[name] = {"browser": "yes"}


def test_a_changed_order_of_widgets_would_be_seen(page: ComfyPage) -> None:
    """The check above fails for a file whose values were saved in another order."""
    name = FEW[0]
    file = shipped.workflow(name)
    sampler = next(node for node in file["nodes"] if node["type"] == "KSampler")
    values = sampler["widgets_values"]
    values[2], values[3] = values[3], values[2]
    with pytest.raises(AssertionError):
        check(name, page.open(file))
