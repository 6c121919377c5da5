"""A network of the host in, what goes into each of its Linears while it runs out.

Hooks are on modules of the caller's own, and gone afterwards whatever happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy_kitchen.tensor import QuantizedTensor

from ..engine.errors import Refused
from .weights import is_linear

TOKENS = 8192  # looked at at once, in float32
# magnitudes are counted in bins of an eighth of an octave from 2^-24 to 2^24
BINS_PER_OCTAVE, OCTAVES = 8, 24


@dataclass
class Seen:
    """The inputs of one layer: largest magnitude, sum of squares of each channel, how many tokens.

    `counts`: numbers by magnitude. All of it stays on the layer's device until it is asked for.
    """

    amax: torch.Tensor
    squares: torch.Tensor
    counts: torch.Tensor
    tokens: int = 0

    def add(self, x: torch.Tensor) -> None:
        """Inputs (tokens, k) of one call."""
        for rows in x.split(TOKENS):
            values = rows.to(torch.float32, copy=True)  # changed below, the caller's must not be
            self.squares += values.square().sum(0)
            sizes = values.abs_()
            self.amax = torch.maximum(self.amax, sizes.amax())
            bins = sizes.log2_().mul_(BINS_PER_OCTAVE).add_(BINS_PER_OCTAVE * OCTAVES)
            last = len(self.counts) - 1
            placed = bins.nan_to_num_(nan=last).clamp_(0, last).long().flatten()
            self.counts += torch.bincount(placed, minlength=last + 1)
            self.tokens += len(rows)

    def mean_square(self) -> torch.Tensor:
        """(k) float32 on the CPU."""
        return (self.squares / max(1, self.tokens)).cpu()

    def largest(self, percentile: float) -> float:
        """What `percentile` of the magnitudes do not exceed: the largest one at 100."""
        amax = float(self.amax)
        if percentile >= 100:
            return amax
        counts = self.counts.double().cumsum(0).cpu()
        wanted = percentile / 100 * float(counts[-1])
        place = int(torch.searchsorted(counts, torch.tensor(wanted, dtype=torch.float64)))
        return min(amax, 2.0 ** ((place + 1) / BINS_PER_OCTAVE - OCTAVES))


@dataclass
class Recorder:
    """`found`: what has gone into each layer by its name; layers that did not run are not there."""

    found: dict[str, Seen] = field(default_factory=dict)

    def see(self, name: str, x: Any) -> None:
        """The input of one call of a layer."""
        if isinstance(x, QuantizedTensor) or not isinstance(x, torch.Tensor) or not x.numel():
            return
        flat = x.detach().reshape(-1, x.shape[-1])
        if name not in self.found:
            bins = 2 * OCTAVES * BINS_PER_OCTAVE
            self.found[name] = Seen(
                torch.zeros((), device=x.device),
                torch.zeros(flat.shape[1], device=x.device),
                torch.zeros(bins, dtype=torch.int64, device=x.device),
            )
        self.found[name].add(flat)

    def check(self) -> None:
        """Refuse activations that are not finite: no scale holds them."""
        for name, seen in self.found.items():
            if not bool(torch.isfinite(seen.amax)):
                raise Refused(
                    "activations-not-finite",
                    found="NaN or infinity going into the layer",
                    expected="finite activations",
                    fix="sample this model first: if the picture is black, its weights, its LoRAs "
                    "or its compute dtype are at fault",
                    layer=name,
                )


@contextmanager
def recorded(network: torch.nn.Module, prefix: str) -> Iterator[Recorder]:
    """Record every Linear below `prefix` inside the block, by its name without it."""
    recorder = Recorder()
    hooks = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def before(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            recorder.see(name, inputs[0] if inputs else None)

        hooks.append(module.register_forward_pre_hook(before))

    try:
        for name, module in network.named_modules():
            if name.startswith(prefix) and is_linear(module):
                watch(name[len(prefix) :], module)
        yield recorder
    finally:
        for hook in hooks:
            hook.remove()
