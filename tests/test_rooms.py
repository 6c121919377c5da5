"""Who may import whom, read from the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("kernels", "engine", "cli", "host", "nodes", "authoring")

# room: rooms it may know; knowledge never points upward
MAY_KNOW = {
    "kernels": {"kernels"},
    "engine": {"engine", "kernels"},
    "cli": {"cli", "engine", "kernels"},
    "host": {"host", "engine", "kernels"},
    "nodes": {"nodes", "host", "engine"},
    "authoring": {"authoring", "engine"},  # of the repository alone, not of the pack
}
# stages of the engine: they know the nouns and the kernels, never another stage
STAGES = ("files", "formats", "fuse", "schemes", "codecs", "families", "place", "measure", "specs")
# a stage may use another one only where that is its whole point
STAGE_EXCEPTIONS = {
    ("fuse", "files"),  # a LoRA is a file: it is opened by the same readers
}
COMFY = ("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server")


def modules() -> list[Path]:
    """Every Python file of every room."""
    return sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[tuple[str, ...]]:
    """Dotted names that a file imports, relative ones resolved from the repository root."""
    package = path.relative_to(ROOT).parent.parts
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = (*base, *(node.module or "").split(".")) if node.module else base
            marker = () if node.level == 0 else ("fusequant",)
            found |= {(*marker, *name, alias.name) for alias in node.names}
    return found


def ours(path: Path) -> set[tuple[str, ...]]:
    """The imports that stay in the package, without its name."""
    return {name[1:] for name in imported(path) if name[0] == "fusequant"}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_knows_only_the_rooms_below(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    known = {name[0] for name in ours(path) if name and name[0] in ROOMS}
    assert known <= MAY_KNOW[room]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_inside_the_package_are_relative(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").split(".")[0] != "fusequant"


def stage_of(parts: tuple[str, ...]) -> str | None:
    return parts[1] if len(parts) > 1 and parts[0] == "engine" and parts[1] in STAGES else None


@pytest.mark.parametrize(
    "path",
    [p for p in modules() if stage_of(p.relative_to(ROOT).parts)],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_a_stage_knows_no_other_stage(path: Path) -> None:
    here = stage_of(path.relative_to(ROOT).parts)
    others = {stage_of(name) for name in ours(path)} - {None, here}
    assert {(here, other) for other in others} <= STAGE_EXCEPTIONS


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_only_host_and_nodes_know_comfyui(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    foreign = {name[0] for name in imported(path)}
    if room in ("kernels", "engine", "cli"):
        assert not foreign & set(COMFY)


def test_the_root_imports_nothing_when_loaded() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all(getattr(node, "module", "") == "__future__" for node in top)
