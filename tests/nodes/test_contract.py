"""The nodes are as recorded: a difference is a decision, taken with `--accept`.

python -m pytest tests/nodes/test_contract.py --accept
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Node
from .contract import HOST_LIST, differences, recorded, text

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = ROOT / "tests" / "contracts" / "nodes.json"
HOW = "python -m pytest tests/nodes/test_contract.py --accept"


def test_the_nodes_are_as_recorded(described: list[Node], pytestconfig: pytest.Config) -> None:
    found = recorded({node.id: node.info for node in described})
    if pytestconfig.getoption("--accept", default=False):
        CONTRACT.parent.mkdir(exist_ok=True)
        CONTRACT.write_text(text(found) + "\n", encoding="utf-8")
    assert CONTRACT.is_file(), f"nothing is recorded yet: {HOW}"
    lines = list(differences(json.loads(CONTRACT.read_text(encoding="utf-8")), found))
    if lines:
        told = "\n".join(lines)
        pytest.fail(f"the nodes differ from {CONTRACT.name}:\n{told}\nmeant? {HOW}", pytrace=False)


def test_every_file_of_nodes_is_a_node_that_loads(described: list[Node]) -> None:
    files = {path.stem for path in (ROOT / "nodes").glob("*.py") if path.stem[0] != "_"}
    assert {node.module for node in described} == files


def test_differences_are_told_by_their_place() -> None:
    old = {
        "FQA": {
            "input": {"required": {"mode": ["COMBO", {"options": ["a", "b"], "default": "a"}]}}
        },
        "FQB": {"name": "FQB"},
    }
    new = {
        "FQA": {
            "input": {"required": {"mode": ["COMBO", {"options": ["b", "c"], "default": "b"}]}}
        },
        "FQC": {"name": "FQC"},
    }
    assert list(differences(old, new)) == [
        'gone     FQA.input.required.mode[1].options: "a"',
        'added    FQA.input.required.mode[1].options: "c"',
        'changed  FQA.input.required.mode[1].default: "a" -> "b"',
        'gone     FQB (was {"name": "FQB"})',
        'added    FQC: {"name": "FQC"}',
    ]
    assert list(differences(["a", "b"], ["b", "a"], "x")) == ["changed  x: another order"]
    assert list(differences(old, old)) == []


def test_lists_of_the_host_and_places_on_disk_are_not_recorded() -> None:
    combo = ["COMBO", {"options": ["pytorch", "xformers"], "default": "auto", "tooltip": "t"}]
    info = {
        "input": {"required": {"attention": combo}}, "python_module": "custom_nodes.fusequant",
        "price_badge": None,
    }  # fmt: skip
    found = recorded({"FQSpeed": info})["FQSpeed"]
    assert found.keys() == {"input"}
    assert found["input"]["required"]["attention"][1] == {
        "options": HOST_LIST, "default": HOST_LIST, "tooltip": "t",
    }  # fmt: skip


def test_a_growing_list_is_recorded_once() -> None:
    lora = {f"lora_{n}": ["COMBO", {}] for n in (1, 2, 3)}
    options = [
        {"key": str(n), "inputs": {"required": dict(list(lora.items())[:n])}} for n in (1, 2, 3)
    ]
    found = recorded({"FQX": {"input": {"count": ["COMFY_DYNAMICCOMBO_V3", {"options": options}]}}})
    assert found["FQX"]["input"]["count"][1]["options"] == [
        options[0],
        {"key": "2", "inputs": {"as before": "1", "required": {"lora_2": ["COMBO", {}]}}},
        {"key": "3", "inputs": {"as before": "2", "required": {"lora_3": ["COMBO", {}]}}},
    ]


def test_the_recorded_form_is_json_that_reads_back() -> None:
    value = {"a": {"b": ["x" * 60, "y" * 60, {"c": 1.5}], "d": None}, "e": []}
    assert json.loads(text(value)) == value
    assert len(text(value).splitlines()) > 3
