"""A model's weights in, what its transformer does with noise out: inputs, outputs, sensitivities.

Nothing is known offline of what a model will be asked for. So its own transformer is run once, in
plain torch, on normal numbers at a late and an early time, and once backwards: with v normal
numbers in the place of the output,

    inputs_k      = mean over tokens of x_k^2           of every linear y = x w.T + bias
    outputs_n     = mean over tokens of (x w.T)_n^2
    directions    = the strongest part of the mean over tokens of x x.T
    sensitivity_n = sum over tokens of (d <v, out> / d y_n)^2 / |out|^2

The last is, on average over v, the squared relative error of the output for an error of variance 1
on channel n of all tokens, as long as errors are small. One weight is in memory at a time, in
float32; blocks are computed again on the way back instead of being kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own spelling
from torch.utils.checkpoint import checkpoint

from ..insight import Insight, LayerInsight
from ..measure.config import Config
from ..measure.references import call, make_inputs
from ..measure.synthetic import generator

Getter = Callable[[str], torch.Tensor]  # a parameter by its name in float32, fresh each time
Step = Callable[[str], None]  # told each time that a weight has been used

GRID, TEXT_TOKENS, TIMES = (6, 6), 16, (0.8, 0.3)
RANK = 16  # of the directions that are kept; twice as many gain 2 %, measured
USES = 3  # of each weight: forwards, forwards again, backwards
HOW = "the model itself, run on noise and backwards in plain torch"


@dataclass
class _Record:
    """What one linear has shown so far."""

    inputs: torch.Tensor
    outputs: torch.Tensor
    directions: torch.Tensor
    gradient: torch.Tensor | None = None  # squares of it; stays None where no way leads to the end


@dataclass
class _Probe:
    """Runs linears on weights that are fetched for each use, and keeps what they show."""

    get: Getter
    used: Step
    records: dict[str, _Record] = field(default_factory=dict)

    def weight(self, name: str) -> torch.Tensor:
        """The weight of a layer, for one product."""
        found = self.get(f"{name}.weight")
        self.used(name)
        return found

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """x (..., K) -> (..., N), recorded."""
        result: torch.Tensor = _Linear.apply(x, name, self)  # type: ignore[no-untyped-call]
        return result


class _Linear(torch.autograd.Function):
    """y = x w.T + bias that keeps neither x nor w."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, name: str, probe: _Probe) -> torch.Tensor:
        ctx.name, ctx.probe = name, probe
        y = F.linear(x, probe.weight(name))
        if name not in probe.records:  # the second time is the same again
            flat = x.reshape(-1, x.shape[-1])
            probe.records[name] = _Record(_mean_square(x), _mean_square(y), _directions(flat))
        return y.add_(probe.get(f"{name}.bias"))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = gradients
        flat = gradient.reshape(-1, gradient.shape[-1])
        ctx.probe.records[ctx.name].gradient = flat.square().sum(0)
        return gradient @ ctx.probe.weight(ctx.name), None, None


def _mean_square(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1]).square().mean(0)


def _directions(x: torch.Tensor) -> torch.Tensor:
    """x (t, k) -> (r, k): the strongest directions of x.T x / t, as strong as without noise.

    What few tokens add to every direction by chance is the mean of the weaker ones.
    """
    tokens = x.shape[0]
    rank = min(RANK, tokens - 1)
    strengths, vectors = torch.linalg.eigh(x @ x.T / tokens)  # weakest first
    strengths, vectors = strengths.flip(0).clamp_(min=0), vectors.flip(1)
    noise = strengths[rank:].sum() / max(1, tokens - rank)
    kept = ((strengths[:rank] - noise).clamp_(min=0) / strengths[:rank].clamp(min=1e-30)).sqrt()
    directions: torch.Tensor = (vectors[:, :rank].T @ x) * (kept / tokens**0.5)[:, None]
    return directions


def probe(
    config: Config,
    get: Getter,
    used: Step = lambda name: None,
    device: str = "cpu",
    seed: int = 0,
) -> Insight:
    """What every linear of the transformer shows; `get` gives core's parameters in float32.

    `used(name)` is called `USES` times for each linear; what it raises ends the probe. The caller
    may be in inference mode, which is left here: it keeps nothing for the way back.
    """
    with torch.inference_mode(False), torch.enable_grad():
        return _probed(config, _Probe(_tracked(get), used), device, seed)


def _tracked(get: Getter) -> Getter:
    """The same parameters, as what was made in inference mode cannot be kept for the way back."""

    def tracked(key: str) -> torch.Tensor:
        found = get(key)
        return found.clone() if found.is_inference() else found

    return tracked


def _probed(config: Config, probe: _Probe, device: str, seed: int) -> Insight:
    names = [
        key.removesuffix(".weight")
        for key, shape in config.shapes().items()
        if len(shape) == 2 and key.endswith(".weight")
    ]
    inputs = make_inputs(config, GRID, TEXT_TOKENS, seed, TIMES)
    moved = {
        name: value.to(device).requires_grad_(value.is_floating_point())
        for name, value in vars(inputs).items()
        if isinstance(value, torch.Tensor)
    }
    linears = {name: partial(probe.linear, name) for name in names}
    out = call(config, probe.get, type(inputs)(**{**vars(inputs), **moved}), linears, _again)
    direction = torch.randn(out.shape, generator=generator(seed, "probe")).to(device)
    torch.autograd.backward(out, direction)
    scale = float(out.detach().square().sum())
    return Insight({n: _insight(r, scale) for n, r in probe.records.items()}, HOW)


def _again(block: Callable[..., Any], *tensors: torch.Tensor) -> Any:
    """Run a block without keeping what it computes: it is run again on the way back."""
    return checkpoint(block, *tensors, use_reentrant=False, preserve_rng_state=False)


def _insight(record: _Record, output_energy: float) -> LayerInsight:
    gradient = record.gradient
    if gradient is None:  # the last block's text, which no image token reads any more
        gradient = torch.zeros_like(record.outputs)
    return LayerInsight(
        record.inputs.cpu(),
        record.outputs.cpu(),
        (gradient / output_energy).cpu(),
        record.directions.cpu(),
    )
