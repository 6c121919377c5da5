"""Opened files and the user's wishes in, one job out: models, LoRAs, text encoders, picture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

from ..errors import Refused
from ..fuse.lora import lora_of
from ..model import Model
from ..source import Source
from ..specs import names
from ..stored import home_of
from .latents import Latent, Picture, Work, latent_of, work_of
from .subject import Fused, Subject, public, subject_of

SPEED, MEMORY, QUALITY = "speed", "memory", "quality"
GOALS = (SPEED, MEMORY, QUALITY)

# text encoders that a family's users load, as specs
TEXT_ENCODERS: Mapping[str, tuple[str, ...]] = {
    "chroma": ("t5-xxl",),
    "flux": ("t5-xxl", "clip-l"),
    "hidream": ("llama-3.1-8b", "t5-xxl", "clip-g", "clip-l"),
    "krea2": ("qwen3-4b",),
    "ltx2": ("gemma-3-12b",),
    "ltx_video": ("t5-xxl",),
    "lumina2": ("gemma-2-2b",),
    "qwen_image": ("qwen2.5-vl-7b",),
    "qwen_image_21": ("qwen3-8b",),
    "sd3": ("t5-xxl", "clip-g", "clip-l"),
    "wan": ("umt5-xxl",),
    "z_image": ("qwen3-4b",),
}
# the same by the width of the text that the model's input layer reads
BY_TEXT_WIDTH: Mapping[tuple[str, str, int], tuple[str, ...]] = {
    ("flux2", "txt_in.weight", 3 * 5120): ("mistral-small-flux2",),
    ("flux2", "txt_in.weight", 3 * 2560): ("qwen3-4b",),
    ("flux2", "txt_in.weight", 3 * 4096): ("qwen3-8b",),
    ("hunyuan_video", "txt_in.input_embedder.weight", 4096): ("llama-3.1-8b", "clip-l"),
    ("hunyuan_video", "txt_in.input_embedder.weight", 3584): ("qwen2.5-vl-7b",),
}
# specs of models that come as a pair: one for high, one for low noise
PAIRS = ("wan2.2-t2v-14b", "wan2.2-i2v-14b", "wan2.2-fun-control-14b")
# words in the names of LoRAs that take steps or guidance away: they stay on at strength 1
FIXED = re.compile(
    r"lightning|distill|turbo|hyper|lcm|causvid|accvid|lightx2v|lightspeed|\b\d+_?-?steps?\b"
    r"|[-_]\d+_?-?steps?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Lora:
    """A LoRA: `fixed` ones never change (step distillation), others do (styles).

    `source` is None for one that is only spoken of; `size_bytes` then is None too.
    """

    name: str
    fixed: bool
    size_bytes: int | None = None
    source: Source | None = None
    strength: float = 1.0


@dataclass(frozen=True)
class Job:
    """What is to be run. `count` models alike take turns (a high and a low noise one)."""

    name: str
    title: str
    subject: Subject
    count: int
    picture: Picture
    text: tuple[Subject, ...] = ()
    loras: tuple[Lora, ...] = ()
    goal: str = SPEED

    @cached_property
    def latent(self) -> Latent:
        """How the family cuts pictures into tokens."""
        return latent_of(self.subject.model)

    @property
    def passes(self) -> int:
        """Calls of the model a step: a distill LoRA takes the guidance away."""
        return 1 if any(lora.fixed for lora in self.loras) else self.latent.passes

    @cached_property
    def stored(self) -> str:
        """The scheme that most of the model's numbers are stored in."""
        counts: Counter[str] = Counter()
        for layer in self.subject.model.layers:
            counts[home_of(layer.parts[0])] += layer.elements
        return counts.most_common(1)[0][0]

    @cached_property
    def work(self) -> Work:
        """One pass through the model in 16 bits."""
        return work_of(self.subject.model, self.picture, self.passes)

    @property
    def fused(self) -> tuple[Fused, ...]:
        """The files that are fused where anything is."""
        return tuple(Fused(x.source, x.strength) for x in self.loras if x.fixed and x.source)

    def text_bytes(self, scheme: str) -> int:
        """The text encoders in a scheme."""
        return sum(subject.sizes(scheme).weight_bytes for subject in self.text)


@cache
def diffusion_specs() -> tuple[str, ...]:
    """The specs of diffusion models."""
    return tuple(name for name in names() if public(name).model.family.kind == "diffusion")


def lora_named(source: Source, strength: float = 1.0) -> Lora:
    """An opened LoRA file; whether it is fixed is told by its name alone, no header says it."""
    lora_of(source, strength)  # refuses what is no LoRA
    size = sum(tensor.size_bytes for tensor in source.tensors.values())
    return Lora(source.path.name, bool(FIXED.search(source.path.stem)), size, source, strength)


@dataclass(frozen=True)
class Wishes:
    """What the user said of a job; None: what the model's users ask for."""

    goal: str = SPEED
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    batch: int = 1
    loras: tuple[Lora, ...] = ()
    text: tuple[Source, ...] = ()


def job_of(sources: Sequence[Source], wishes: Wishes) -> Job:
    """One or two opened models -> a job; several are models of one shape that take turns."""
    subjects = [subject_for(source) for source in sources]
    first = subjects[0]
    _check(subjects)
    latent = latent_of(first.model)
    picture = Picture(
        wishes.width or latent.width,
        wishes.height or latent.height,
        (wishes.frames or latent.frames) if latent.frame_stride else 1,
        wishes.batch,
    )
    encoders = [subject_for(source) for source in wishes.text]
    encoders = encoders or [public(name) for name in _encoders(first.model)]
    name = first.source.path.stem if first.is_spec else first.source.path.name
    count = max(len(subjects), 2 if name in PAIRS and first.is_spec else 1)
    return Job(
        name=name,
        title=getattr(first.source, "title", first.source.path.name),
        subject=first,
        count=count,
        picture=picture,
        text=tuple(encoders),
        loras=wishes.loras,
        goal=wishes.goal,
    )


def subject_for(source: Source) -> Subject:
    """A source, recognised; a spec only once."""
    return public(source.path.stem) if source.kind == "spec" else subject_of(source)


def _encoders(model: Model) -> tuple[str, ...]:
    for (family, key, width), found in BY_TEXT_WIDTH.items():
        if model.family.name == family and key in model.shapes and model.shapes[key][1] == width:
            return found
    return TEXT_ENCODERS.get(model.family.name, ())


def _check(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        family = subject.model.family
        if family.kind != "diffusion":
            raise Refused(
                "not-a-diffusion-model",
                found=f"{subject.source.path.name}: {family.title}",
                expected="a diffusion model",
                fix="give it as --text-encoder" if family.kind == "text" else "give another file",
            )
        if subject.model.shapes.keys() != subjects[0].model.shapes.keys():
            raise Refused(
                "models-differ",
                found=f"{subject.source.path.name} beside {subjects[0].source.path.name}",
                expected="models of one shape that take turns, such as high and low noise",
                fix="ask for each alone",
            )
