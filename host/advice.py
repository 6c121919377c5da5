"""What a user of the Advisor node chose in, a plan for other nodes and its report out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management

from ..engine.advise.advisor import advise
from ..engine.advise.cards import CARDS
from ..engine.advise.find_card import GIB
from ..engine.advise.job import GOALS as GOALS
from ..engine.advise.job import Lora, Wishes, diffusion_specs, job_of
from ..engine.advise.machine import Machine, machine_of
from ..engine.advise.report import page
from ..engine.files.open import open_source
from ..engine.setup import Setup
from ..engine.source import Source
from ..engine.specs import spec
from . import paths

AUTO, CPU, NONE = "auto", "cpu", "none"
MODELS = "diffusion_models"


@dataclass(frozen=True)
class Asked:
    """The choices of the node. None: what the model's users ask for, or what is found here."""

    models: tuple[str, ...]
    goal: str
    gpu: str = AUTO
    vram_gb: float | None = None
    ram_gb: float | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    batch: int = 1
    distill_lora: bool = False
    style_lora: bool = False
    text_encoder: str | None = None


def model_names() -> list[str]:
    """The user's files, then the public models whose headers are known."""
    return [*paths.names(MODELS), *diffusion_specs()]


def gpu_names() -> list[str]:
    """This machine, no GPU, then every card of the table."""
    return [AUTO, CPU, *CARDS]


def chosen_models(first: str, second: str | None) -> tuple[str, ...]:
    """The model, and the one that takes turns with it if there is one."""
    return (first,) if second in (None, NONE) else (first, str(second))


def chosen_text(name: str | None) -> str | None:
    """The text encoder's file; None: the model's own."""
    return None if name == AUTO else name


def advice(asked: Asked) -> tuple[Setup, str]:
    """(what other nodes take, what the user reads)."""
    opened: list[Source] = []
    try:
        models = [_open(MODELS, name, opened) for name in asked.models]
        text = (asked.text_encoder,) if asked.text_encoder else ()
        loras = [Lora("distill LoRA", fixed=True)] if asked.distill_lora else []
        loras += [Lora("style LoRA", fixed=False)] if asked.style_lora else []
        wishes = Wishes(
            goal=asked.goal,
            width=asked.width,
            height=asked.height,
            frames=asked.frames,
            batch=asked.batch,
            loras=tuple(loras),
            text=tuple(_open("text_encoders", name, opened) for name in text),
        )
        found = advise(_machine(asked), job_of(models, wishes))
        return found.best, page(found.machine.to_json(), asked.goal, [found.to_json()])
    finally:
        for source in opened:
            source.close()


def _machine(asked: Asked) -> Machine:
    """The one that is named, or this one as ComfyUI uses it."""
    ours = asked.gpu == AUTO
    ram = asked.ram_gb
    if ours and ram is None:
        ram = comfy.model_management.total_ram * 2**20 / GIB
    device: Any = comfy.model_management.get_torch_device()
    folder = _existing(paths.cache_folder())
    return machine_of(
        None if ours else asked.gpu, asked.vram_gb, ram, folder, cpu=device.type == CPU
    )


def _existing(folder: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    return next((found for found in (folder, *folder.parents) if found.is_dir()), Path.cwd())


def _open(kind: str, name: str, opened: list[Source]) -> Source:
    """A file of the host's folders, or a public model's header."""
    files = paths.names(kind)
    found = spec(name) if name not in files and name in diffusion_specs() else None
    source: Source = found if found is not None else open_source(paths.find(kind, name))
    opened.append(source)
    return source
