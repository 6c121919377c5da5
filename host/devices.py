"""A scheme and a torch device in, what the engine's device rules make of them in the host out."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..engine.devices import NATIVE, REFUSED, check, device_class, rules
from .report import Report

REFERENCE = "reference"
# where a device has no integer matmul the host's kernels for these would raise
_INT8 = ("int8", "int8_convrot", "w4a8")


def class_of(device: torch.device) -> str:
    """The name of a device in the engine's rules."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return device_class(device.type, capability, hip=torch.version.hip is not None)


def running(scheme: str, device: torch.device, backend: str | None, report: Report) -> str | None:
    """The backend that a scheme needs on a device, where it is not asked for another one.

    A scheme that the device refuses is refused; an emulated one is told with its reason.
    """
    found = check(scheme, class_of(device))
    if found.support != NATIVE:
        report.notes.append(f"{scheme} on {device.type}: {found.support}, {found.why}")
    if backend is None and scheme in _INT8 and _support("int8", device) != NATIVE:
        return REFERENCE
    return backend


def unholdable(schemes: Iterable[str], device: torch.device) -> list[str]:
    """Of the schemes of a file, those whose layers must be dequantized before the device."""
    return sorted({scheme for scheme in schemes if _support(scheme, device) == REFUSED})


def compute_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype to compute in: bfloat16 for float16 on MPS, whose float16 overflows to black."""
    if device.type == "mps" and dtype == torch.float16:
        return torch.bfloat16
    return dtype


def stored_backend(
    schemes: Iterable[str], device: torch.device, backend: str | None
) -> str | None:  # fmt: skip
    """The backend for the layers of a file as stored: plain torch where the host's would raise."""
    slow = _support("int8", device) != NATIVE and any(name in _INT8 for name in schemes)
    return REFERENCE if backend is None and slow else backend


def host_computes(schemes: Iterable[str], device: torch.device) -> bool:
    """Whether the host's own layers can hold and multiply these schemes on a device.

    Hosts before 0.38 use their int8 matmul also where the file asks for plain activations.
    """
    found = set(schemes)
    if _support("int8", device) != NATIVE and found & {*_INT8, "int8_weight_only"}:
        return False
    return not unholdable(found, device)


def _support(scheme: str, device: torch.device) -> str:
    """A scheme that only the host knows is left to the host."""
    found = rules().get((scheme, class_of(device)))
    return NATIVE if found is None else found.support
