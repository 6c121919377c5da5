"""A patcher and a model in, what two steps of ComfyUI's sampler made and took out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import torch

from .card import DevicePeak
from .cases import Model

STEPS, SEED, GUIDANCE = 2, 1, 4.0


@dataclass(frozen=True)
class Run:
    """`first_s` is until the first step is done, loading included; `step_s` the second step."""

    latent: torch.Tensor
    first_s: float
    step_s: float
    peak_bytes: int | None

    @property
    def facts(self) -> dict[str, Any]:
        """The numbers of a result row."""
        return {
            "first_s": round(self.first_s, 3),
            "step_s": round(self.step_s, 4),
            "peak_bytes": self.peak_bytes,
        }


def synchronize() -> None:
    """Wait for work that a call only started."""
    if comfy.model_management.get_torch_device().type == "cuda":
        torch.cuda.synchronize()


def prompt(model: Model, seed: int) -> list[list[Any]]:
    """Conditioning as ComfyUI's nodes hand it on."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn((1, *model.text), generator=generator)
    more: dict[str, Any] = {"guidance": GUIDANCE}
    if model.pooled:
        more["pooled_output"] = torch.randn((1, model.pooled), generator=generator)
    return [[text, more]]


def sample(patcher: Any, model: Model) -> Run:
    """Two steps from empty noise; the same numbers in, so the same numbers out."""
    latent = torch.zeros(model.latent)
    noise = comfy.sample.prepare_noise(latent, SEED)
    ends: list[float] = []

    def step_done(*_: Any) -> None:
        synchronize()
        ends.append(time.perf_counter())

    with DevicePeak() as memory:
        synchronize()
        started = time.perf_counter()
        made = comfy.sample.sample(
            patcher, noise, STEPS, 1.0, "euler", "simple", prompt(model, 0), prompt(model, 1),
            latent, callback=step_done, disable_pbar=True, seed=SEED,
        )  # fmt: skip
    return Run(
        made.float().cpu(), ends[0] - started, ends[-1] - ends[-2] if len(ends) > 1 else 0.0,
        memory.peak_bytes,
    )  # fmt: skip


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative Frobenius distance."""
    return float((found - wanted).norm() / wanted.norm())
