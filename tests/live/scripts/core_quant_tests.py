"""ComfyUI's own tests of quantization, run by unittest, with this pack imported or without."""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def run(folder: str, pack: bool) -> Iterator[dict[str, Any]]:
    """The folder of the tests -> one line a test: its name and what came of it."""
    if pack:
        from fusequant.host.layouts import register
        from fusequant.nodes._loading import load_nodes

        yield {"pack": len(load_nodes("fusequant.nodes"))}
        register()
    suite = unittest.TestSuite()
    for path in sorted(Path(folder).glob("test_*.py")):
        suite.addTest(unittest.defaultTestLoader.discover(folder, path.name, folder))
    names = list(_names(suite))  # a suite forgets its tests as it runs them
    ended = unittest.TextTestRunner(verbosity=0).run(suite)
    broken = {test.id(): trace for test, trace in (*ended.failures, *ended.errors)}
    skipped = {test.id(): why for test, why in ended.skipped}
    for name in names:
        outcome = "failed" if name in broken else "skipped" if name in skipped else "passed"
        yield {"test": name, "outcome": outcome, "why": broken.get(name, skipped.get(name, ""))}


def _names(suite: Any) -> Iterator[str]:
    """The ids of all tests in a suite."""
    if not isinstance(suite, unittest.TestSuite):
        yield suite.id()
        return
    for one in suite:
        yield from _names(one)
