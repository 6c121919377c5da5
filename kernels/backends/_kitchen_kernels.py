"""A function of comfy-kitchen and a device in, why only its plain torch code is left there out.

The answer is that of comfy-kitchen's own registry as it stands: the host may have switched off the
kernels for a card, and then every call of that function runs in plain torch, without a word.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch

ON_CPU = "comfy-kitchen has only plain torch code on a CPU"
CUDA_SINCE = (13, 0)  # ComfyUI switches the CUDA kernels off where torch is built for less
# what comfy-kitchen's registry says of a backend that is switched off, or that it never heard of
_OFF = "not available"

# kind of device: the backends that have compiled code for it; a refusal is told of the first
_COMPILED = {
    "cuda": ("cuda", "triton"),
    "rocm": ("hip", "triton"),
    "xpu": ("triton",),
    "npu": ("ascend",),
}
_TITLES = {"cuda": "CUDA", "hip": "HIP", "triton": "Triton", "ascend": "Ascend"}


@dataclass(frozen=True)
class Linear:
    """The function that a linear of a scheme spends its time in, as ComfyUI runs it.

    `kernel` None: the weight is dequantized and torch multiplies, or torch multiplies the codes. So
    it is on NVIDIA cards older than `since`, and on all others.
    """

    kernel: str | None
    since: tuple[int, int] | None = None


_BLACKWELL = (10, 0)
LINEARS = {
    "int8": Linear("int8_linear"),
    "int8_convrot": Linear("int8_linear"),
    "int8_weight_only": Linear(None),
    "w4a8": Linear("w4a8_int8_linear"),
    "w4a4_convrot": Linear("convrot_w4a4_linear"),
    "fp8": Linear(None),
    "fp8_e5m2": Linear(None),
    # torch multiplies; x is quantized before every product
    "mxfp8": Linear("quantize_mxfp8", _BLACKWELL),
    "nvfp4": Linear("quantize_nvfp4", _BLACKWELL),
}


def why_eager(name: str, device: torch.device) -> str | None:
    """None where comfy-kitchen runs `name`, a scheme or a function of its own, in compiled code."""
    if device.type == "cpu":
        return ON_CPU
    function = _function(LINEARS.get(name, Linear(name)), device)
    return None if function is None else why_plain(function, device)


def why_plain(function: str, device: torch.device) -> str | None:
    """None where a compiled kernel of comfy-kitchen takes calls of `function` on the device."""
    if device.type == "cpu":
        return ON_CPU
    names = _COMPILED.get(_kind(device))
    if names is None:
        return f"comfy-kitchen has only plain torch code on {device.type}"
    refusals = []
    for name in names:
        reason = _refusal(name, function, device)
        if reason is None:
            return None
        refusals.append(reason)
    return refusals[0]


# its CPU code is plain torch, slower than torch_native's; its kernels are what ComfyUI runs
COMPILED_FIRST = {"cuda": 10}


@dataclass(frozen=True)
class Compiled:
    """On a card, comfy-kitchen has a compiled kernel for `function`; a CPU has plain torch only."""

    function: str

    def check(self, value: torch.Tensor) -> str | None:
        """Why only its plain torch code is left on the tensor's device."""
        if value.device.type == "cpu":
            return None
        reason = why_plain(self.function, value.device)
        return None if reason is None else f"would be computed by plain torch: {reason}"

    def describe(self) -> str:
        """The kernel, and what a CPU has in its place."""
        return f"on a card its kernel {self.function}, on a CPU plain torch"


def _function(linear: Linear, device: torch.device) -> str | None:
    if linear.since is None:
        return linear.kernel
    if _kind(device) != "cuda" or torch.cuda.get_device_capability(device) < linear.since:
        return None
    return linear.kernel


def _kind(device: torch.device) -> str:
    return "rocm" if device.type == "cuda" and torch.version.hip else device.type


def _refusal(name: str, function: str, device: torch.device) -> str | None:
    """Why the backend `name` of comfy-kitchen does not run `function` on the device."""
    registry: Any = importlib.import_module("comfy_kitchen.registry").registry
    kernels = f"comfy-kitchen's {_TITLES[name]} kernels"
    if not registry.is_available(name):
        reason = registry.validate_backend_for_call(name, function, {}).failure_reason
        if reason != _OFF:
            return f"{kernels} cannot run here: {reason}"
        return f"{kernels} are switched off here{_old_cuda() if name == 'cuda' else ''}"
    rules = registry.get_constraints(name, function)
    if rules is None:
        return f"{kernels} have no {function}"
    if device.type not in rules.default_devices:
        return f"{kernels} have no {function} on {device.type}"
    least = rules.min_compute_capability
    if least and device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < least:
            needed = f"sm_{least[0]}{least[1]}, this is sm_{found[0]}{found[1]}"
            return f"{kernels} need {needed} for {function}"
    checked = registry.validate_backend_for_call(name, function, {})
    return None if checked.success else f"{kernels} do not run {function}: {checked.failure_reason}"


def _old_cuda() -> str:
    built = torch.version.cuda
    if built is None or tuple(int(part) for part in built.split(".")[:2]) >= CUDA_SINCE:
        return ""
    since = ".".join(str(part) for part in CUDA_SINCE)
    return f" (torch is built for CUDA {built}; they need {since})"
