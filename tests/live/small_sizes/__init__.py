"""A node pack for tests only: see `replaced`. Nothing happens before ComfyUI calls the entry."""

from __future__ import annotations

from typing import Any


async def comfy_entrypoint() -> Any:
    """Called by ComfyUI -> the extension."""
    from .replaced import SmallSizes

    return SmallSizes()
