"""ComfyUI's nodes are as the workflows were written for: names, kinds, the order of widgets."""

from __future__ import annotations

import json
from typing import Any

from fusequant.authoring.record import RECORD, USED, recorded

from .server import ComfyServer

WRITTEN_FOR = "0.33.0"
HOW = "python -m fusequant.authoring.record http://127.0.0.1:8188"


def kinds(info: dict[str, Any]) -> list[tuple[str, str]]:
    """(input, kind) in the order in which widgets are saved."""
    return [
        (name, info["input"][group][name][0])
        for group in ("required", "optional")
        for name in info["input_order"].get(group, [])
    ]


def test_core_nodes_are_as_recorded(server: ComfyServer) -> None:
    found = recorded(server.object_info())
    known = json.loads(RECORD.read_text(encoding="utf-8"))
    assert known.keys() == set(USED)
    if server.get("/system_stats")["system"]["comfyui_version"] == WRITTEN_FOR:
        for name in USED:
            assert found[name] == known[name], f"{name}: {HOW}"
    # a later version may add inputs at the end: what is saved by its place stays right
    for name in USED:
        now, then = kinds(found[name]), kinds(known[name])
        assert [one for one in now if one in then] == then, name
        for output in ("output", "output_name"):
            assert found[name][output][: len(known[name][output])] == known[name][output]
