"""Sizes, names, docstrings and quiet imports, read from the syntax trees."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("kernels", "engine", "cli", "host", "nodes", "authoring")
SOURCES = sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
BANNED = {"utils", "util", "helper", "helpers", "manager", "handler", "common", "misc", "wrapper"}
BANNED |= {"new", "v2"}
MACHINE_PATH = re.compile(r"/(?:work|farm|root|home)/[A-Za-z0-9._-]+")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def words(identifier: str) -> set[str]:
    """`VramManager` and `vram_manager` -> {vram, manager}."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", identifier).lower().split("_"))


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name)
def test_a_file_holds_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_function_fits_a_page(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_names_say_what_a_thing_is(path: Path) -> None:
    classes = [n.name for n in ast.walk(tree(path)) if isinstance(n, ast.ClassDef)]
    for identifier in [path.stem, *classes]:
        assert not words(identifier.strip("_")) & BANNED, identifier


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_public_things_have_docstrings(path: Path) -> None:
    module = tree(path)
    assert ast.get_docstring(module), "the module says what comes in and what goes out"
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_nothing_is_done_when_a_module_is_imported(path: Path) -> None:
    quiet = (
        ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef,
        ast.Assign, ast.AnnAssign, ast.AugAssign, ast.If,
    )  # fmt: skip
    for node in tree(path).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert docstring or isinstance(node, quiet), ast.unparse(node)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: only tracked files are read")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_no_path_of_one_machine_is_tracked() -> None:
    for path in tracked():
        if path.suffix in {".png", ".jpg"}:
            continue
        found = MACHINE_PATH.search(path.read_text(encoding="utf-8"))
        assert not found or path == Path(__file__), f"{name(path)}: {found and found.group()}"


def test_tracked_files_are_small() -> None:
    assert [name(p) for p in tracked() if p.stat().st_size > 1_000_000] == []
