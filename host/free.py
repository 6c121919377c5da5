"""Nothing in, the memory that ComfyUI's models and caches held out."""

from __future__ import annotations

import gc
import logging
from typing import Any

import comfy.model_management

from .memory import measured
from .report import size

log = logging.getLogger(__name__)


def free_memory(models: bool = True, watched: Any = None) -> str:
    """Take models off their devices if asked, empty the caches; the report.

    `watched`: a MODEL whose VRAM Manager has measured something by now.
    """
    management = comfy.model_management
    device = management.get_torch_device()
    before, kept = management.get_free_memory(device), len(management.current_loaded_models)
    if models:
        management.unload_all_models()
    gc.collect()
    management.soft_empty_cache()
    freed = max(0, management.get_free_memory(device) - before)
    gone = kept - len(management.current_loaded_models)
    lines = [f"Free Memory: {gone} models taken off their device, {size(freed)} freed on {device}"]
    log.info("%s", lines[0])
    if device.type == "cpu":
        lines.append("without a GPU the weights are in RAM, where ComfyUI keeps them for reuse")
    memory_log = None if watched is None else measured(watched)
    if memory_log is not None:
        lines.append(memory_log.text())
    return "\n".join(lines)
