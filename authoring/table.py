"""The workflows and what became of them in tests in; docs/workflows.md and a README section out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..engine.measure.table import markdown_table
from .build import workflows
from .notes import download
from .tiers import TIERS
from .workflow import Workflow

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "workflows"
STATES = ROOT / "tests" / "workflows" / "states.json"
NOT_RUN = "structure only"
HEAD = """# The workflows

Made by `python -m fusequant.authoring` from tables: the same families on every tier of cards, with
the values that the GPU Advisor gives. Open them in ComfyUI: Workflow, Browse templates, FuseQuant.
Each has a note with links to its models, one with predicted needs, one with what to change.

A family of workflows is one file in authoring/families, a model file one row in
authoring/models.py, a tier of cards one row in authoring/tiers.py; then run the command again.

executed: run by the tests in a real ComfyUI on a CPU with small stand-in models of the same
families. opened: loaded by ComfyUI's editor in a browser and saved again without a difference.
"""
# of the README's table: title, and what stands in the names of its workflows
COLUMNS = {
    "quick start": "_quickstart_", "whole chain": "_edit-fused_",
    "text to image": "_text-to-image_", "video": "video_",
}  # fmt: skip


def states() -> Mapping[str, Mapping[str, str]]:
    """{workflow: {"executed": "yes" or why not, "browser": the same}}; what tests have written."""
    if not STATES.is_file():
        return {}
    found: Mapping[str, Mapping[str, str]] = json.loads(STATES.read_text(encoding="utf-8"))
    return found


def page() -> str:
    """docs/workflows.md."""
    head = ("workflow", "what for", "card", "files", "download, about", "state")
    rows = [_row(workflow) for workflow in workflows().values()]
    return f"{HEAD}\n{markdown_table(head, rows)}\n"


def _row(workflow: Workflow) -> tuple[str, ...]:
    files = ", ".join(f"[{file.name}]({file.url})" for file in workflow.files)
    return (
        f"[{workflow.name}](../workflows/{workflow.name}.json)",
        workflow.purpose,
        workflow.card,
        files or "your own",
        download(workflow) if workflow.files else "nothing",
        _state(workflow.name),
    )


def _state(name: str) -> str:
    """What tests found, in one cell."""
    found = states().get(name, {})
    executed, browser = found.get("executed"), found.get("browser")
    told = []
    if executed is not None:
        told.append("executed" if executed == "yes" else f"not executed: {executed}")
    if browser is not None:
        told.append("opened" if browser == "yes" else f"not opened: {browser}")
    return ", ".join(told) or NOT_RUN


def readme() -> str:
    """Which workflow for my card: a row a tier. Names alone are read: they say it all."""
    names = sorted(path.stem for path in FOLDER.glob("*.json"))
    rows = []
    for tier in TIERS.values():
        mine = [name for name in names if name.endswith(f"_{tier.key}")]
        rows.append((tier.title, *(_cell(mine, marks) for marks in COLUMNS.values())))
    told = (
        f"{len(names)} workflows in all, with their models and what was tested of each: "
        "[docs/workflows.md](docs/workflows.md)."
    )
    return f"{markdown_table(('card', *COLUMNS), rows)}\n\n{told}"


def _cell(mine: list[str], mark: str) -> str:
    """Links to the workflows of a column."""
    return ", ".join(f"[{_short(x)}](workflows/{x}.json)" for x in mine if mark in x)


def _short(name: str) -> str:
    """`qwen-edit-2511, int8-convrot`."""
    _, model, _, scheme, _ = name.split("_")
    return f"{model}, {scheme}"
