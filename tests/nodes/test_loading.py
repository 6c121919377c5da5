"""Node discovery: a node that fails costs only itself, and its traceback is in the log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusequant.nodes._loading import load_nodes

GOOD = "class Node:\n    @classmethod\n    def GET_SCHEMA(cls): return 'schema'\nNODE = Node\n"
BAD_SCHEMA = "class Node:\n    @classmethod\n    def GET_SCHEMA(cls): raise ValueError('shy')\n"
FILES = {
    "__init__": "",
    "_private": "raise RuntimeError('never imported')\n",
    "b_works": GOOD,
    "a_works": GOOD,
    "lacks_package": "import no_such_package_at_all\n",
    "lacks_constant": "node = 1\n",
    "lacks_schema": BAD_SCHEMA + "NODE = Node\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    package = tmp_path / "some_nodes"
    package.mkdir()
    for stem, text in FILES.items():
        (package / f"{stem}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield package.name
    for name in [n for n in sys.modules if n.split(".")[0] == package.name]:
        del sys.modules[name]


def test_what_loads_is_returned_in_file_order(folder: str) -> None:
    assert [node.__module__ for node in load_nodes(folder)] == [
        "some_nodes.a_works",
        "some_nodes.b_works",
    ]


def test_what_does_not_load_is_logged_with_its_traceback(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_nodes(folder)
    assert [record.args[0] for record in caplog.records if record.args] == [
        "lacks_constant",
        "lacks_package",
        "lacks_schema",
    ]
    assert all(record.exc_info for record in caplog.records)
    assert "no_such_package_at_all" in caplog.text
    assert "shy" in caplog.text
