"""Fixtures of the browser tests: a server with the pack, a Chromium, ComfyUI's page in it.

`--screenshots FOLDER` keeps a picture of every workflow that is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..live.comfy import HOW, find
from ..live.server import ComfyServer
from . import chromium
from .comfy_page import ComfyPage

HERE = Path(__file__).resolve().parent
ABSENT, NO_BROWSER = "no ComfyUI", "no Chromium"
HOW_BROWSER = (
    "BROWSER TESTS SKIPPED: no Chromium found. Install it (apt install chromium) or set "
    "FUSEQUANT_CHROMIUM to the program."
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs a ComfyUI and a Chromium, and is skipped without."""
    lacks = ABSENT if find() is None else NO_BROWSER if chromium.find() is None else None
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker("live")
            item.add_marker("browser")
            if lacks:
                item.add_marker(pytest.mark.skip(reason=lacks))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One loud line, however many tests it concerns."""
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    for reason, line in ((ABSENT, HOW), (NO_BROWSER, HOW_BROWSER)):
        if any(reason in text and "browser" in text for text in skipped):
            terminalreporter.write_line(line, red=True, bold=True)


@pytest.fixture(scope="session")
def page() -> Iterator[ComfyPage]:
    """ComfyUI's page, one for all workflows."""
    comfy = find()
    if comfy is None:
        pytest.skip(ABSENT)
    with ComfyServer(comfy) as server, chromium.Chromium() as browser:
        yield ComfyPage(browser, server)
