"""Graphs saved under an older id of a node: ComfyUI puts the node of today in its place."""

from __future__ import annotations

import json
from pathlib import Path

from fusequant.nodes._renamed import RENAMED

from ..live.comfy import Comfy
from ..live.inprocess import run_inside

CONTRACT = Path(__file__).resolve().parents[1] / "contracts" / "nodes.json"
LINE = {
    "old": "FQOnce", "new": "FQToday", "inputs": [["model", "unet"]], "outputs": [[1, 0]],
    "widgets": ["unet"],
}  # fmt: skip


def test_old_ids_are_gone_and_new_ones_are_there() -> None:
    ids = set(json.loads(CONTRACT.read_text(encoding="utf-8")))
    assert {line.new for line in RENAMED} <= ids
    assert not {line.old for line in RENAMED} & ids


def test_a_graph_with_an_old_id_runs_the_node_of_today(comfy: Comfy) -> None:
    graph = {
        "1": {"class_type": "FQOnce", "inputs": {"unet": "flux.safetensors"}, "_meta": {}},
        "2": {"class_type": "KSampler", "inputs": {"model": ["1", 0]}, "_meta": {}},
    }
    made, told = run_inside(comfy, "node_replacement", table=[LINE], graph=graph)
    assert made["1"]["class_type"] == "FQToday"
    assert made["1"]["inputs"] == {"model": "flux.safetensors"}
    assert made["2"]["inputs"] == {"model": ["1", 1]}
    assert told["FQOnce"][0]["old_widget_ids"] == ["unet"]
