"""A family's name and shapes in, its reference transformer and the inputs it takes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import Refused
from . import config as flux
from . import qwen, wan
from .arithmetic import Getter, Linear, RunBlock, run_at_once
from .config import Config, FluxConfig
from .qwen import QwenConfig, QwenTransformer
from .synthetic import generator
from .transformer import ReferenceTransformer
from .wan import WanConfig, WanTransformer


@dataclass(frozen=True)
class Inputs:
    """One call of a transformer: latent patches, text, what only FLUX takes, time, picture size."""

    img: torch.Tensor
    txt: torch.Tensor
    vector: torch.Tensor | None
    timestep: torch.Tensor
    guidance: torch.Tensor | None
    grid: tuple[int, int]

    def arguments(self) -> dict[str, Any]:
        """What a network is called with."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Reference:
    """A family's transformer in plain torch.

    config_of(shapes) -> the config, or a refusal. network(config, weights, linears, run_block) ->
    a callable of `Inputs.arguments()`. channels(config) -> numbers of an image token.
    """

    config_of: Callable[[Mapping[str, tuple[int, ...]]], Any]
    network: Callable[..., Callable[..., torch.Tensor]]
    channels: Callable[[Any], int]


REFERENCES: dict[str, Reference] = {
    "flux": Reference(flux.config_of, ReferenceTransformer, lambda config: flux.LATENT_CHANNELS),
    "wan": Reference(wan.config_of, WanTransformer, lambda config: 4 * config.channels),
    "qwen_image": Reference(qwen.config_of, QwenTransformer, lambda config: qwen.CHANNELS),
}
_FAMILY_OF = {FluxConfig: "flux", WanConfig: "wan", QwenConfig: "qwen_image"}


def reference_of(config: Config) -> Reference:
    """The reference that a config belongs to."""
    return REFERENCES[_FAMILY_OF[type(config)]]


def config_for(family: str, shapes: Mapping[str, tuple[int, ...]]) -> Config | None:
    """The config of a model of a family, or None: no reference computes exactly this model."""
    if family not in REFERENCES:
        return None
    try:
        config: Config = REFERENCES[family].config_of(shapes)
    except Refused:
        return None
    return config if len(config.shapes()) == len(shapes) else None


def make_inputs(
    config: Config,
    grid: tuple[int, int] = (16, 16),
    text_tokens: int = 64,
    seed: int = 0,
    timesteps: Sequence[float] = (0.6,),
) -> Inputs:
    """Normal numbers in float32 for images of `grid` tokens and prompts, one for each timestep."""
    source, batch = generator(seed, "inputs"), len(timesteps)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=source)

    is_flux = isinstance(config, FluxConfig)
    return Inputs(
        img=normal(grid[0] * grid[1], reference_of(config).channels(config)),
        txt=normal(text_tokens, config.context),
        vector=normal(config.vector) if isinstance(config, FluxConfig) else None,
        timestep=torch.tensor(timesteps),
        guidance=torch.full((batch,), 3.5) if is_flux else None,
        grid=grid,
    )


def call(
    config: Config,
    weights: Mapping[str, torch.Tensor] | Getter,
    inputs: Inputs,
    linears: Mapping[str, Linear] | None = None,
    run_block: RunBlock = run_at_once,
) -> torch.Tensor:
    """Run the transformer once; (batch, tokens, channels)."""
    network = reference_of(config).network(config, weights, linears, run_block)
    return network(**inputs.arguments())
