"""ComfyUI's progress bar and interrupt in, a progress function of the engine's kind out."""

from __future__ import annotations

import sys
from collections.abc import Callable

import comfy.model_management
import comfy.utils
from comfy_execution.utils import get_executing_context

Progress = Callable[[int, int], None]  # (done, in all), any unit


def host_progress() -> Progress:
    """progress(done, total): moves the running node's bar; raises when the user interrupts.

    The host's own interrupt exception passes through, so that the prompt ends as interrupted.
    """
    bars: list[comfy.utils.ProgressBar] = []

    def progress(done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if not bars:
            bars.append(comfy.utils.ProgressBar(total))
        bars[0].update_absolute(done, total)

    return progress


def tell(text: str) -> None:
    """Show `text` on the running node at once, before its work is done; nothing without a page."""
    running = get_executing_context()
    module = sys.modules.get("server")
    page = getattr(getattr(module, "PromptServer", None), "instance", None)
    if running is not None and hasattr(page, "send_progress_text"):
        page.send_progress_text(text, running.node_id)
