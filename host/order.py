"""A MODEL of ours in, the same that says once when a stock LoRA sits on its quantized layers out.

ComfyUI adds such a LoRA to the dequantized weight and rounds it again. That works, but costs
accuracy, and time wherever the layer is not kept on the GPU: the user is told what to wire instead.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

import comfy.patcher_extension
from comfy_kitchen.tensor import QuantizedTensor

log = logging.getLogger(__name__)

KEY = "fusequant_order"
_PREPARE = comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING


def patched_layers(patcher: Any) -> tuple[int, int]:
    """(quantized layers with patches of the host on them, quantized layers) of a MODEL."""
    quantized = {
        name
        for name, parameter in patcher.model.named_parameters()
        if isinstance(parameter, QuantizedTensor) or isinstance(parameter.data, QuantizedTensor)
    }
    return len(quantized & set(patcher.patches)), len(quantized)


def warning(patcher: Any) -> str | None:
    """The line for a log or a report: how many layers, what it costs, what to wire instead."""
    patched, quantized = patched_layers(patcher) if patcher.patches else (0, 0)
    if not patched:
        return None
    return (
        f"a LoRA was added after quantizing: ComfyUI applies it to {patched} of {quantized} "
        "quantized layers and rounds each of them a second time (about 1.7 times the weight error, "
        "measured on int8 and fp8), again at every step for layers that are not kept on the GPU. "
        "Wire Fuse LoRA before Quantize Model, or Live LoRA after it."
    )


class OrderWarning:
    """Called as the host prepares sampling; tells each set of patches once."""

    def __init__(self) -> None:
        self._told: set[uuid.UUID] = set()

    def __call__(self, executor: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Look at the MODEL that is sampled, a clone perhaps, then go on."""
        if model.patches_uuid not in self._told:
            self._told.add(model.patches_uuid)
            line = warning(model)
            if line is not None:
                log.warning("%s", line)
        return executor(model, *args, **kwargs)


def watched(patcher: Any) -> Any:
    """`patcher`, which belongs to the caller, with the warning on it and on all its clones."""
    patcher.remove_wrappers_with_key(_PREPARE, KEY)
    patcher.add_wrapper_with_key(_PREPARE, KEY, OrderWarning())
    return patcher
