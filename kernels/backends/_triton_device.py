"""Whether Triton compiles a kernel of ours for the device of a tensor, as a rule of a claim."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import torch


def available() -> str | None:
    """None, or why no kernel can run here: Triton is missing, or there is nothing to run it on."""
    try:
        found = importlib.util.find_spec("triton")
    except (ImportError, ValueError) as error:
        return f"triton cannot be imported: {error}"
    if found is None:
        return "triton cannot be imported: no module of that name"
    if torch.cuda.is_available() or interpreted():
        return None
    return "no CUDA or HIP device, and TRITON_INTERPRET is not 1"


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class OnTriton:
    """The tensor is on an NVIDIA device from `at_least`, an AMD one of `hip`, or interpreted.

    `hip` are the beginnings of the architectures' names: `gfx12` is gfx1200 and gfx1201.
    """

    at_least: tuple[int, int]
    hip: tuple[str, ...]

    def check(self, value: torch.Tensor) -> str | None:
        """A reason when the device is another one."""
        kind = value.device.type
        if kind == "cpu" and interpreted():
            return None
        if kind != "cuda":
            return f"needs {self.describe()}, this is {kind}"
        if torch.version.hip:
            arch = torch.cuda.get_device_properties(value.device).gcnArchName
            return self.refuses_arch(arch)
        return self.refuses_capability(torch.cuda.get_device_capability(value.device))

    def refuses_arch(self, arch: str) -> str | None:
        """A reason when an AMD architecture is not among those named."""
        if arch.startswith(self.hip):
            return None
        return f"needs {self.describe()}, this is {arch}"

    def refuses_capability(self, found: tuple[int, int]) -> str | None:
        """A reason when an NVIDIA device is too old."""
        if found >= self.at_least:
            return None
        return f"needs {self.describe()}, this is sm_{found[0]}{found[1]}"

    def describe(self) -> str:
        """The least capability and the architectures."""
        return " or ".join((f"sm_{self.at_least[0]}{self.at_least[1]}", *self.hip))
