"""A node's id and a text in, the text shown on that node in the browser out, if there is one."""

from __future__ import annotations

import sys
from typing import Any


def tell_node(node_id: str | None, text: str) -> None:
    """Show `text` on a node, also after it has run. Without a server or a node nothing is done."""
    server: Any = getattr(sys.modules.get("server"), "PromptServer", None)
    running = getattr(server, "instance", None)
    if node_id is not None and hasattr(running, "send_progress_text"):
        running.send_progress_text(text, node_id)
