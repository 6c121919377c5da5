"""Every shipped workflow runs in a real ComfyUI on the CPU, with small stand-ins for its files.

`make live` runs a sample with every family and every node of ours; `make workflows` runs all and
records in tests/workflows/states.json what became of each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ..workflows import shipped
from .comfy import Comfy
from .server import TEST_NODES, ComfyServer, Result
from .smallest import smallest
from .stand_ins import StandIns

SMALL_SIZES = Path(__file__).resolve().parent / "small_sizes"
RECORD = "FUSEQUANT_RECORD_STATES"
TIMEOUT_S = 240.0
# workflow: why only its structure is tested
NOT_EXECUTED: dict[str, str] = {}
SAMPLE = frozenset(shipped.sample())
MADE = ("images", "text", "audio", "latents", "gifs")  # what an output node can show


@dataclass(frozen=True)
class Bed:
    """The server that runs workflows, its files, and what it has run."""

    server: ComfyServer
    files: StandIns
    ran: dict[str, dict[str, str]] = field(default_factory=dict)

    def run(self, name: str) -> Result:
        """A shipped workflow at the smallest sizes."""
        prompt = smallest(shipped.prompt(name), self.server, self.files, shipped.folders(name))
        return self.server.run(prompt, TIMEOUT_S)


@pytest.fixture(scope="session")
def bed(comfy: Comfy) -> Iterator[Bed]:
    """One server and one set of files for all workflows; both go away at the end."""
    with ComfyServer(comfy, packs=(TEST_NODES, SMALL_SIZES)) as server:
        bed = Bed(server, StandIns(comfy, server.base / "models", server.base / "stand-ins"))
        yield bed
    if os.environ.get(RECORD):
        shipped.record(bed.ran)


def shown(result: Result) -> dict[str, Any]:
    """Node -> what it made, without those that showed nothing."""
    return {
        node: kinds
        for node, found in result.outputs.items()
        if (kinds := {kind: found[kind] for kind in MADE if found.get(kind)})
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SAMPLE else pytest.mark.workflows_all)
        for name in shipped.names()
        if name not in NOT_EXECUTED
    ],
)
def test_a_workflow_runs_to_its_output(bed: Bed, name: str) -> None:
    bed.ran[name] = {"executed": "fails"}
    result = bed.run(name)
    assert result.done, result.refused or result.node_errors or result.failure
    made = shown(result)
    ends = {
        node
        for node, one in shipped.prompt(name).items()
        if one["class_type"].startswith(("Save", "Preview"))
    }
    assert ends <= set(made), f"nothing from {ends - set(made)}"
    bed.ran[name] = {"executed": "yes"}


def test_reasons_for_what_is_not_executed(bed: Bed) -> None:
    bed.ran.update({name: {"executed": why} for name, why in NOT_EXECUTED.items()})
    assert set(NOT_EXECUTED) <= set(shipped.names())
