"""An optional library's module by name in, its functions when a call needs them, or the refusal."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .. import registry
from ..constraints import Capability, Dtypes, MultipleOf
from ..registry import Claim
from . import _reference_fused
from ._trial import tried

Tensor = torch.Tensor
HALVES = Dtypes((torch.bfloat16, torch.float16))
SIXTEENS = (MultipleOf(0, 16), MultipleOf(1, 16))


@dataclass(frozen=True)
class Library:
    """`module` of a `package`, imported only when a call needs it: some take seconds.

    `card`: it is for NVIDIA cards alone.
    """

    package: str
    module: str
    card: bool = True

    def refusal(self) -> str | None:
        """None, or that it is not installed. An import that fails shows on the trial product."""
        try:
            found = importlib.util.find_spec(self.module.partition(".")[0])
        except (ImportError, ValueError) as error:
            return f"{self.package} cannot be imported: {error}"
        if found is None:
            return f"{self.package} is not installed"
        if self.card and (torch.version.hip or not torch.cuda.is_available()):
            return f"{self.package} needs an NVIDIA card"
        return None

    def get(self, name: str) -> Any:
        """A function of the module."""
        return getattr(importlib.import_module(self.module), name)

    def has(self, name: str) -> bool:
        """Whether the module of this version has the function."""
        return hasattr(importlib.import_module(self.module), name)


def quantized(x: Tensor, dtype: torch.dtype, group_size: int = 0) -> tuple[Tensor, Tensor]:
    """`quantize_activations` for a library that only multiplies: our one-pass kernel on a GPU."""
    run: Callable[..., tuple[Tensor, Tensor]] = _reference_fused.quantize_activations
    if x.device.type == "cuda" and registry.refusal("triton") is None:
        from . import triton as own

        run = own.quantize_activations
    return run(x, dtype, group_size, "none", None, None, 0.0)


def rows(scale: Tensor, weight: Tensor) -> Tensor:
    """A scale of () or (N, 1) as (N, 1) in memory of its own order."""
    return scale.expand(weight.shape[0], 1).contiguous()


def halves_bias(bias: Tensor | None, x: Tensor) -> Tensor | None:
    """A bias in x's dtype, which fused kernels ask for."""
    return None if bias is None else bias.to(x.dtype)


def on_card(
    op: str,
    run: Callable[..., Tensor],
    error: float,
    capability: tuple[int, int],
    weight: tuple[MultipleOf, ...] = SIXTEENS,
) -> Claim:
    """A claim on a linear for half-precision x on an NVIDIA card, after a trial product on it."""
    x = (Capability(capability), HALVES, tried(op, run, error))
    return Claim(op, run, {"weight": weight, "x": x}, error=error)
