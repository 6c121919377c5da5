"""Every file of a discovered folder ends in its constant, and part names are unique."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# folder: the constant each of its public files holds
FOLDERS = {
    "kernels.backends": "BACKEND",
    "engine.formats": "FORMAT",
    "engine.schemes": "SCHEME",
    "engine.codecs": "CODEC",
    "engine.families": "FAMILY",
    "engine.fuse.adapters": "ADAPTER",
    "cli.verbs": "VERB",
    "cli.benches": "BENCH",
}


def files(folder: str) -> list[str]:
    found = (ROOT / folder.replace(".", "/")).glob("*.py")
    return sorted(p.stem for p in found if not p.stem.startswith("_"))


@pytest.mark.parametrize(
    ("folder", "stem"), [(folder, stem) for folder in FOLDERS for stem in files(folder)]
)
def test_each_file_ends_in_its_constant(folder: str, stem: str) -> None:
    module = importlib.import_module(f"fusequant.{folder}.{stem}")
    part = getattr(module, FOLDERS[folder])
    assert part.name


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_are_unique_in_a_folder(folder: str) -> None:
    names = [
        getattr(importlib.import_module(f"fusequant.{folder}.{stem}"), FOLDERS[folder]).name
        for stem in files(folder)
    ]
    assert len(names) == len(set(names))
    assert names
