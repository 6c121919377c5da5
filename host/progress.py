"""ComfyUI's progress bar and interrupt in, a progress function of the engine's kind out."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils

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
