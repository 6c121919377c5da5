"""A table of renamed ids and a graph saved with the old ones, through ComfyUI's own replacement."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any


def run(table: list[dict[str, Any]], graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Lines of the table and a graph -> the graph that ComfyUI would run, then what browsers see.

    The new ids stand for nodes that are there.
    """
    import server
    from app.node_replace_manager import NodeReplaceManager

    import nodes
    from fusequant.nodes._renamed import Renamed, register

    manager = NodeReplaceManager()
    server.PromptServer.instance = SimpleNamespace(node_replace_manager=manager)
    asyncio.run(register([Renamed(**line) for line in table]))
    for line in table:
        nodes.NODE_CLASS_MAPPINGS[line["new"]] = object
    manager.apply_replacements(graph)
    yield graph
    yield manager.as_dict()
