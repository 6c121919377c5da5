"""comfy-kitchen's Triton products, called from their own module where the host leaves them off.

Nothing in the host's registry is switched: other packs and the host itself see no difference. The
kernels tune themselves on the first call of every new size, about a second each.
"""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from ..constraints import AtMost, Dtypes, NotEmpty
from ..registry import Claim
from ._trial import tried
from ._triton_device import OnTriton

Tensor = torch.Tensor
MODULE = "comfy_kitchen.backends.triton"
# its kernels count elements in 32 bits
MOST_ELEMENTS = 2**31 - 1
# NVIDIA: what its registry asks for. AMD: matrix units; without them the int8 product hangs the GPU
CORES = OnTriton((8, 0), ("gfx908", "gfx90a", "gfx94", "gfx950", "gfx11", "gfx12"))
AMD_SINCE = (3, 7)  # earlier Triton has no rounding to whole numbers on AMD
BEHIND_OURS = {"cuda": 14}


def int8_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
    """(M, K), (N, K) int8 -> (M, N)."""
    return _int8(x, weight, bias, scale)


def int8_convrot_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, group_size: int
) -> Tensor:
    """(M, K), (N, K) int8 of a rotated weight -> (M, N)."""
    return _int8(x, weight, bias, scale, convrot=True, convrot_groupsize=group_size)


def w4a8_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rotation: int,
    scale: Tensor,
    channel: Tensor,
    codebook: Tensor | None,
) -> Tensor:
    """(M, K), (N, K / 2) int8 -> (M, N): widened to int8 in one pass, then the int8 product."""

    def run(part: Tensor) -> Tensor:
        made: Tensor = _function("w4a8_int8_linear")(
            part,
            weight,
            scale,
            channel.reshape(-1),
            codebook,
            bias=_whole(bias),
            group_size=2 * weight.shape[1] // scale.shape[1],
            convrot_groupsize=rotation,
            out_dtype=x.dtype,
        )
        return made

    return _in_runs(x, weight.shape[0], run)


def _int8(x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, **more: Any) -> Tensor:
    def run(part: Tensor) -> Tensor:
        function = _function("int8_linear")
        made: Tensor = function(part, weight, scale, _whole(bias), x.dtype, **more)
        return made

    return _in_runs(x, weight.shape[0], run)


def _in_runs(x: Tensor, outputs: int, run: Callable[[Tensor], Tensor]) -> Tensor:
    """`run` on runs of rows that 32 bits can count, on x's device, its faults as torch's own."""
    step = max(1, MOST_ELEMENTS // max(x.shape[1], outputs, 1))
    # Triton's own errors are no RuntimeErrors; the others are of its compiler
    faults = (importlib.import_module("triton.errors").TritonError, subprocess.SubprocessError)
    try:
        with torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext():
            parts = [run(x[start : start + step]) for start in range(0, x.shape[0], step)]
    except (*faults, OSError) as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _whole(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.contiguous()


def _function(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(MODULE), name)
    return found


@dataclass(frozen=True)
class KitchenTriton:
    """comfy-kitchen's Triton module has the function, and this Triton can run it on the device."""

    function: str

    def check(self, value: Tensor) -> str | None:
        """Why the function cannot be called."""
        module = importlib.import_module(MODULE)
        if not hasattr(module, self.function):
            why = getattr(module, "_TRITON_ERROR", None) or "it is of another version"
            return f"needs {self.describe()}: {why}"
        if not torch.version.hip:
            return None
        found = importlib.import_module("triton").__version__
        if tuple(int(part) for part in found.split(".")[:2]) >= AMD_SINCE:
            return None
        since = ".".join(str(part) for part in AMD_SINCE)
        return f"needs Triton {since} on AMD, this is {found}"

    def describe(self) -> str:
        """The function of its module."""
        return f"comfy-kitchen's Triton {self.function}"


def _claim(op: str, run: Callable[..., Tensor], function: str) -> Claim:
    floats = Dtypes((torch.bfloat16, torch.float16, torch.float32))
    size = AtMost(1, 32768)  # a whole row is one block of its quantizer
    x = (CORES, KitchenTriton(function), NotEmpty(), floats, size, tried(op, run, 0.02))
    return Claim(op, run, {"x": x}, BEHIND_OURS, error=0.02)


CLAIMS = (
    _claim("int8_linear", int8_linear, "int8_linear"),
    _claim("int8_convrot_linear", int8_convrot_linear, "int8_linear"),
    _claim("w4a8_linear", w4a8_linear, "w4a8_int8_linear"),
)
