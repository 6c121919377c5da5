"""A scheme and a torch device in, what the engine's device rules make of them in the host out."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..engine.devices import NATIVE, REFUSED, DeviceRule, check, device_class, rules
from ..kernels.backends.kitchen import why_eager
from .backends import REGISTRY
from .report import Report

# where a device has no integer matmul the host's kernels for these would raise
_INT8 = ("int8", "int8_convrot", "w4a8")


def class_of(device: torch.device) -> str:
    """The name of a device in the engine's rules."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return device_class(device.type, capability, hip=torch.version.hip is not None)


def running(scheme: str, device: torch.device, backend: str | None, report: Report) -> str | None:
    """The backend of a scheme's layers on a device: the one asked for, None for the host's own.

    A scheme that the device refuses is refused; an emulated one is told with its reason.
    """
    found = check(scheme, class_of(device))
    if found.support != NATIVE:
        report.notes.append(f"{scheme} on {device.type}: {found.support}, {found.why}")
    return told([scheme], device, backend, report)


def told(
    schemes: Iterable[str], device: torch.device, backend: str | None, report: Report
) -> str | None:  # fmt: skip
    """`stored_backend`, and in the report why it is not the host that multiplies."""
    whys = {why_ours(scheme, device): None for scheme in sorted(schemes)}
    if backend is None:
        report.notes += [f"multiplied by this pack, not by ComfyUI: {why}" for why in whys if why]
    return stored_backend(schemes, device, backend)


def why_ours(scheme: str, device: torch.device) -> str | None:
    """Why layers of a scheme are multiplied by our own code on a device; None: by the host's.

    The host's is comfy-kitchen: compiled kernels for some cards and some builds of torch, plain
    torch code for all the others.
    """
    if scheme == "none" or _rule(scheme, device) is None:  # plain, or a format of the host alone
        return None
    if scheme in _INT8 and _support("int8", device) != NATIVE:
        return "there is no integer product on this device: ComfyUI's would raise"
    return why_eager(scheme, device)


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
    """The backend for layers of these schemes: the registry's choice where one is better off so."""
    if backend is None and any(why_ours(scheme, device) for scheme in schemes):
        return REGISTRY
    return backend


def host_computes(schemes: Iterable[str], device: torch.device) -> bool:
    """Whether the host's own layers can hold and multiply these schemes on a device.

    Hosts before 0.38 use their int8 matmul also where the file asks for plain activations.
    """
    found = set(schemes)
    if _support("int8", device) != NATIVE and found & {*_INT8, "int8_weight_only"}:
        return False
    return not unholdable(found, device)


def _rule(scheme: str, device: torch.device) -> DeviceRule | None:
    return rules().get((scheme, class_of(device)))


def _support(scheme: str, device: torch.device) -> str:
    """A scheme that only the host knows is left to the host."""
    found = _rule(scheme, device)
    return NATIVE if found is None else found.support
