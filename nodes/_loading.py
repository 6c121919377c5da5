"""The files of this folder -> the node classes that ComfyUI is told about."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from typing import Any

from ._renamed import RENAMED, register

log = logging.getLogger(__name__)


def load_nodes(package: str) -> list[Any]:
    """Import every public module of `package` and return their NODE classes in file-name order.

    A node that cannot be imported or described is logged with its traceback and left out, so that
    one missing option never costs the user the other nodes. The schema is asked for here because
    ComfyUI gives up on the rest of a pack at the first schema that raises.
    """
    folder = importlib.import_module(package)
    loaded = []
    for info in sorted(pkgutil.iter_modules(folder.__path__), key=lambda info: info.name):
        if info.name.startswith("_"):
            continue
        try:
            node = importlib.import_module(f"{package}.{info.name}").NODE
            node.GET_SCHEMA()
        except Exception:  # the one place that answers any error
            log.exception("FuseQuant: node %s cannot load and is left out", info.name)
            continue
        loaded.append(node)
    return loaded


def extension() -> object:
    """Nothing -> ComfyUI's extension object; the nodes are imported when it asks for them."""
    from comfy_api.latest import ComfyExtension  # type: ignore[import-not-found]

    class FuseQuantExtension(ComfyExtension):  # type: ignore[misc]
        """Names the nodes of this pack, and those that had another name."""

        async def on_load(self) -> None:
            """Nothing -> ComfyUI knows what stands for the ids of older graphs."""
            await register(RENAMED)

        async def get_node_list(self) -> list[Any]:
            """Nothing -> every node class that loads."""
            return load_nodes(__package__ or "nodes")

    return FuseQuantExtension()
