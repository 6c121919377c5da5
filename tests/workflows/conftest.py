"""Fixtures of the workflows' tests: the committed files, and the same made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fusequant.authoring.build import workflows
from fusequant.authoring.workflow import Workflow

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `name` runs for each committed workflow."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", NAMES)


@pytest.fixture(scope="session")
def made() -> Mapping[str, Workflow]:
    """Every workflow as the families make it now."""
    return workflows()


@pytest.fixture
def saved(name: str) -> dict[str, Any]:
    """A committed workflow; nothing in a test changes it."""
    return _read(name)


@cache
def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8")
    )
    return found
