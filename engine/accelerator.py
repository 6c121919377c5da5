"""A device as the user spells it in, whether torch has it here and what it can do out."""

from __future__ import annotations

from .errors import Refused


def device_here(text: str) -> str:
    """A device that torch has here, with or without its number: `cpu`, `cuda`, `cuda:1`."""
    import torch

    here = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    here["xpu"] = torch.xpu.device_count() if hasattr(torch, "xpu") else 0
    kind, _, number = text.partition(":")
    index = int(number) if number.isdecimal() else 0
    if index >= here.get(kind, 0) or text not in (kind, f"{kind}:{index}"):
        raise Refused(
            "no-such-device",
            found=text,
            expected=" or ".join(name for name, count in here.items() if count),
            fix="name no device to compute on the CPU",
        )
    return text


def capability(device: str) -> tuple[int, int] | None:
    """What `auto` chooses by on a CUDA device; None elsewhere."""
    import torch

    return torch.cuda.get_device_capability(device) if device.startswith("cuda") else None
