"""Tests that start a Ray cluster: skipped, with the reason, unless they are asked for by name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test of this folder is a fleet one."""
    asked = "fleet" in config.getoption("-m")
    reason = "starts a Ray cluster: make fleet" if not asked else "no package ray: make fleet"
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker("fleet")
            item.add_marker("slow")
            if not asked or find_spec("ray") is None:
                item.add_marker(pytest.mark.skip(reason=reason))
