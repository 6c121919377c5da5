"""What is settled beside the scheme: small rules, each a function from facts to a choice."""

from __future__ import annotations

from dataclasses import dataclass

from ..devices import NATIVE
from ..scheme_names import schemes
from ..setup import AUTO, BOTH, FUSE, KEEP, LIMIT, LIVE, LOW
from .find_card import GIB
from .job import MEMORY, SPEED, Job
from .machine import Machine
from .predict import HOST_BYTES, Prediction
from .published import PUBLISHED, Published
from .subject import Sizes

EIGHT_BIT_TEXT = "int8_weight_only"
SMALL_CARD_BYTES = 12 * GIB
SIX_GB = 6 * GIB
SMALL_RAM_BYTES = 24 * GIB
CONVERTING_RAM_BYTES = 4 * GIB  # torch, one GiB of work and the system's own
HAIR_BYTES = GIB // 2  # left on a card: less is a tight fit
DESKTOP_BYTES = GIB // 2  # of a card with a screen, so that Windows moves nothing into RAM
NEXT_TO_NOTHING = 0.1  # of the weights: so few on the card are not worth keeping there
FEW_TOKENS = 1_024  # below, quantizing activations may cost more than the product saves
VIDEO_TOKENS = 16_000
MANY_TOKENS_OF_ATTENTION = 0.5  # share of attention in the work


@dataclass(frozen=True)
class Text:
    """Scheme and device of the text encoders, and the sentence that says why."""

    scheme: str
    device: str
    why: str


def text_choices(machine: Machine, job: Job) -> tuple[Text, ...]:
    """Ways to load the text encoders, best first; the last one needs least RAM."""
    if not job.text:
        return (Text("none", "default", ""),)
    eight = job.text_bytes(EIGHT_BIT_TEXT)
    small = f"{eight / GIB:.1f} GiB in 8 bits"
    if machine.unified:
        why = f"Text encoder and model share one memory: the encoder takes {small}."
        return (Text(EIGHT_BIT_TEXT, "default", why),)
    whole = job.text_bytes("none")
    in_full = Text("none", "default", "The text encoder runs before sampling and stays in 16 bits.")
    beside = Text(EIGHT_BIT_TEXT, "default", f"The text encoder takes {small}.")
    if machine.device == "cpu":
        return (in_full, beside)
    room = machine.vram_bytes - HOST_BYTES
    if whole <= room and job.goal != MEMORY and not _little_ram(machine):
        return (in_full, beside)
    if eight <= room:
        return (beside,)
    if machine.vram_bytes <= SIX_GB:
        why = f"Even {small} are too much for this card: the text encoder runs on the CPU."
        return (Text(EIGHT_BIT_TEXT, "cpu", why),)
    why = f"The text encoder takes {small}: what does not fit is streamed, once for each prompt."
    return (Text(EIGHT_BIT_TEXT, "default", why),)


def _little_ram(machine: Machine) -> bool:
    return machine.ram_bytes is not None and machine.ram_bytes <= SMALL_RAM_BYTES


def vae_dtype(machine: Machine) -> str:
    """bf16 where the device computes in it, else float32."""
    return "bf16" if machine.card.architecture.bf16 else "fp32"


def mode(machine: Machine, job: Job, found: Prediction) -> tuple[str, int | None, int | None]:
    """(mode, limit, buffer) of VRAM Manager."""
    if not machine.discrete:
        return AUTO, None, None
    if found.streamed_bytes:
        weights = found.resident_bytes + found.streamed_bytes
        low = found.resident_bytes < NEXT_TO_NOTHING * weights
        return (LOW if low else AUTO), None, DESKTOP_BYTES
    if job.goal == MEMORY:
        return LIMIT, found.vram_bytes, None
    return (KEEP if found.text_resident else AUTO), None, None


def no_fusing(machine: Machine, job: Job, sizes: Sizes) -> str | None:
    """Why nothing can be fused and quantized on this machine, or None."""
    if sizes.scheme in ("none", job.stored):
        return None
    ram = machine.ram_bytes
    if ram is not None and ram < CONVERTING_RAM_BYTES:
        return f"Converting needs {CONVERTING_RAM_BYTES / GIB:.0f} GiB of RAM, {_has(ram)} here."
    needed = job.count * sizes.weight_bytes
    needed += job.count * job.subject.stored_bytes if job.subject.is_spec else 0
    free = machine.disk_bytes
    if free is not None and free < needed:
        what = "the 16-bit source and the new file need" if job.subject.is_spec else "it needs"
        return f"Too little free disk for converting: {what} {needed / GIB:.0f} GiB, {_has(free)}."
    return None


def _has(size: int) -> str:
    return f"there are {size / GIB:.0f} GiB"


def short_ram(machine: Machine, found: Prediction) -> str | None:
    """Why RAM does not do, or None."""
    if machine.ram_bytes is None or found.ram_bytes <= machine.ram_bytes:
        return None
    return (
        f"RAM is short: {found.ram_bytes / GIB:.0f} GiB are needed and {_has(machine.ram_bytes)}, "
        "so weights are read from disk again and again."
    )


def published(machine: Machine, job: Job, sizes: Sizes) -> Published | None:
    """The public files of a model in a scheme that there is room for; a file may be anybody's."""
    free, needed = machine.disk_bytes, job.count * sizes.weight_bytes
    if not job.subject.is_spec or (free is not None and free < needed):
        return None
    return PUBLISHED.get((job.name, sizes.scheme))


def fate_of_loras(job: Job, scheme: str, blocked: bool) -> str:
    """Fuse what is fixed, keep live what changes; where nothing can be fused all are live."""
    kinds = {lora.fixed for lora in job.loras}
    quantized_before = job.stored != "none" and job.stored == scheme
    if kinds and (blocked or quantized_before):
        return LIVE
    if kinds == {False}:
        return LIVE
    return BOTH if len(kinds) == 2 else FUSE


def attention(machine: Machine, job: Job, found: Prediction) -> str | None:
    """Sage attention where it is installed and attention is most of the work; else as it is."""
    work = found.work
    heavy = work.tokens >= VIDEO_TOKENS
    heavy &= work.attention > MANY_TOKENS_OF_ATTENTION * (work.attention + work.products)
    there = "sageattention" in machine.software.packages and machine.device.startswith("sm_")
    fits = machine.device not in ("sm_70", "sm_75")
    return "sage" if heavy and there and fits and job.goal == SPEED else None


def compiles(machine: Machine, job: Job, found: Prediction) -> bool:
    """torch.compile where speed is the goal, everything stays on the card and Triton is there."""
    ready = machine.software.triton is True and machine.discrete
    return ready and job.goal == SPEED and found.fits and found.support == NATIVE


def opens_in(scheme: str) -> str | None:
    """What stock ComfyUI cannot open, said; None for the others."""
    reads = schemes()[scheme].core_reads
    return None if reads == "yes" else f"Files in {scheme} open in FuseQuant's loaders."
