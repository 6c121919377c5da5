"""What ComfyUI tells a browser about each node of the pack, on a machine without model files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def run(base: str) -> Iterator[dict[str, Any]]:
    """An empty folder to take for ComfyUI's own -> one line a node: its module and its info."""
    from comfy.cli_args import args

    args.base_directory = base  # before folder_paths reads it: no file of this machine is listed
    from fusequant.nodes._loading import load_nodes

    for node in load_nodes("fusequant.nodes"):
        yield {"module": node.__module__.rpartition(".")[2], "info": node.GET_NODE_INFO_V1()}
