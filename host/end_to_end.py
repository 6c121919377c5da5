"""Two MODELs and one way to sample in, both latents (and pictures) of the same noise out."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import comfy.sample
import torch

from ..engine.measure.errors import relative_error
from ..engine.measure.images import ImageLikeness, likeness
from .progress import host_progress


@dataclass(frozen=True)
class Sampling:
    """One way to sample: as KSampler takes it. `vae` None: latents alone are compared."""

    positive: Any
    negative: Any
    latent: dict[str, Any]
    seed: int = 0
    steps: int = 4
    cfg: float = 1.0
    sampler: str = "euler"
    scheduler: str = "simple"
    vae: Any = None


@dataclass(frozen=True)
class EndToEnd:
    """How far the second latent is from the first, and the pictures where there is a VAE."""

    latent_error: float
    image: ImageLikeness | None
    steps: int
    seed: int


def with_patches(patcher: Any, patches: dict[str, list[Any]]) -> Any:
    """A clone that carries exactly these patches of the host."""
    clone = patcher.clone()
    clone.patches = {key: list(found) for key, found in patches.items()}
    clone.patches_uuid = uuid.uuid4()
    return clone


def end_to_end(reference: Any, patcher: Any, how: Sampling) -> EndToEnd:
    """Sample both from the same noise, one after the other."""
    progress = host_progress()
    latents = []
    for at, model in enumerate((reference, patcher)):

        def step(done: int, *_: Any, at: int = at) -> None:
            progress(at * how.steps + done + 1, 2 * how.steps)

        latents.append(sampled(model, how, step))
    pictures = None
    if how.vae is not None:
        pictures = likeness(*(decoded(how.vae, latent) for latent in latents))
    error = relative_error(latents[0].float(), latents[1].float())
    return EndToEnd(error, pictures, how.steps, how.seed)


def sampled(patcher: Any, how: Sampling, step: Any = None) -> torch.Tensor:
    """The latent that KSampler would give."""
    latent = comfy.sample.fix_empty_latent_channels(patcher, how.latent["samples"])
    noise = comfy.sample.prepare_noise(latent, how.seed, how.latent.get("batch_index"))
    found: torch.Tensor = comfy.sample.sample(
        patcher, noise, how.steps, how.cfg, how.sampler, how.scheduler, how.positive, how.negative,
        latent, noise_mask=how.latent.get("noise_mask"), callback=step, disable_pbar=True,
        seed=how.seed,
    )  # fmt: skip
    return found


def decoded(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """Pictures (frames, height, width, 3) of a latent."""
    pictures: torch.Tensor = vae.decode(latent)
    return pictures.reshape(-1, *pictures.shape[-3:])
