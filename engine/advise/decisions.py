"""The decisions of an advice in the order in which a user asks for them: one table.

The reasons of a setup and the decision tree of the README are both made from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..devices import NATIVE
from ..setup import BOTH, FUSE, LIVE
from .claims import CLAIMS
from .job import Job
from .machine import Machine
from .measured import Pick
from .predict import Prediction, in_float32
from .rules import HAIR_BYTES, SIX_GB, SMALL_CARD_BYTES, Text


@dataclass(frozen=True)
class Case:
    """A machine, a job and one way to run it. `loras`: what becomes of them.

    `blocked`: why nothing can be fused here. `short`: what the machine lacks for this way.
    `files`: published files that are loaded. `pick`: what was measured of the scheme.
    """

    machine: Machine
    job: Job
    found: Prediction
    text: Text
    loras: str
    blocked: str | None = None
    short: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    pick: Pick | None = None

    @property
    def scheme(self) -> str:
        """How the weights are stored."""
        return self.found.scheme

    @property
    def original(self) -> bool:
        """Nothing is rounded: 16 bits from a file of 16 bits."""
        return self.scheme == "none" and self.job.stored == "none"


@dataclass(frozen=True)
class Decision:
    """`answer` is the reason that a setup gives where it `holds`."""

    question: str
    answer: str
    holds: Callable[[Case], bool]


def sixteen_bits_fit(case: Case) -> bool:
    """The original stays on the device."""
    return case.original and case.found.fits


def fits_by_a_hair(case: Case) -> bool:
    """So little is left that another program pushes weights out."""
    left = case.machine.vram_bytes - case.found.vram_bytes
    return case.machine.discrete and case.found.fits and left < HAIR_BYTES


def tensor_cores(case: Case) -> bool:
    """Codes go straight into a product, faster than 16 bits."""
    return case.scheme != "none" and case.found.support == NATIVE and case.found.gain > 1


def saves_memory_only(case: Case) -> bool:
    """Codes become 16 bits first, or are multiplied no faster. A CPU has an answer of its own."""
    return case.scheme != "none" and not tensor_cores(case) and not cpu_alone(case)


def streams(case: Case) -> bool:
    """Some weights cross the bus in every step."""
    return bool(case.found.streamed_bytes)


def small_card(case: Case) -> bool:
    """Less than 12 GB, more than 6."""
    return case.machine.discrete and SIX_GB < case.machine.vram_bytes < SMALL_CARD_BYTES


def six_gb(case: Case) -> bool:
    """6 GB or less."""
    return case.machine.discrete and case.machine.vram_bytes <= SIX_GB


def take_turns(case: Case) -> bool:
    """Several models, of which one at a time is on the card."""
    return case.job.count > 1 and case.machine.discrete and not case.found.together


def stay_together(case: Case) -> bool:
    """Several models that all stay on the device."""
    return case.job.count > 1 and case.machine.discrete and case.found.together


def larger_batch(case: Case) -> bool:
    """More than one picture at once."""
    return case.job.picture.batch > 1


def fixed_lora(case: Case) -> bool:
    """Something is fused."""
    return any(lora.fixed for lora in case.job.loras) and case.loras in (FUSE, BOTH)


def changing_lora(case: Case) -> bool:
    """A strength that may change."""
    return any(not x.fixed for x in case.job.loras) and case.loras in (LIVE, BOTH)


def nothing_fused(case: Case) -> bool:
    """Fusing is not possible here."""
    return case.blocked is not None


def quantized_before(case: Case) -> bool:
    """The source has codes already."""
    return case.job.stored not in ("none",)


def one_memory(case: Case) -> bool:
    """Apple's."""
    return case.machine.unified


def cpu_alone(case: Case) -> bool:
    """No GPU at all."""
    return case.machine.device == "cpu"


def computes_in_float32(case: Case) -> bool:
    """No bfloat16 units, and a model that overflows in float16."""
    return in_float32(case.machine, case.job)


DECISIONS = (
    Decision(
        "Does the 16-bit model fit?",
        "The 16-bit model fits beside its activations: nothing is quantized, nothing is lost.",
        sixteen_bits_fit,
    ),
    Decision(
        "Does it fit by a hair?",
        "Less than half a GiB is left: what else uses the card pushes weights out of it.",
        fits_by_a_hair,
    ),
    Decision(
        "Does the card multiply 8 bits itself (int8 from sm_75, FP8 from sm_89)?",
        "Weights and activations in 8 bits on tensor cores save memory and time.",
        tensor_cores,
    ),
    Decision(
        "No such units, or weights that are stored alone?",
        "Codes that become 16 bits before they are multiplied save memory, not time.",
        saves_memory_only,
    ),
    Decision(
        "Out of memory?",
        "What does not fit waits in RAM and crosses the bus in every step: VRAM Manager, auto or "
        "low VRAM.",
        streams,
    ),
    Decision(
        "Under 12 GB?",
        "Under 12 GB close what else uses the card, and keep to 8 bits for the text encoder too.",
        small_card,
    ),
    Decision(
        "6 GB?",
        "With 6 GB sample one picture at a time; the VAE decodes in tiles by itself when it must.",
        six_gb,
    ),
    Decision(
        "Several models that take turns (Wan 2.2 high and low noise)?",
        "One model is on the card at a time and the other waits in RAM: fewer bits halve the wait "
        "and the RAM.",
        take_turns,
    ),
    Decision(
        "Several models, and a card for all of them?",
        "All models stay on the card: none waits for another to be brought in.",
        stay_together,
    ),
    Decision(
        "Larger batch, more pixels or more frames?",
        "Activations grow with the batch and weights do not: streaming hides behind more "
        "computing, and out of memory means a smaller batch.",
        larger_batch,
    ),
    Decision(
        "A LoRA that never changes (Lightning, distill)?",
        "A LoRA that never changes is fused before quantizing: it costs nothing in a step and is "
        "rounded once.",
        fixed_lora,
    ),
    Decision(
        "A LoRA whose strength changes (style)?",
        "A LoRA whose strength changes stays beside the weights with Live LoRA: nothing is "
        "quantized again.",
        changing_lora,
    ),
    Decision(
        "Too little RAM or disk to fuse?",
        "Nothing can be fused here: load a file that is quantized already, and put LoRAs on it "
        "with Live LoRA.",
        nothing_fused,
    ),
    Decision(
        "Is the file quantized already?",
        "The file is quantized already: its codes are used as they are, anything else rounds them "
        "twice.",
        quantized_before,
    ),
    Decision(
        "One memory for everything (Apple)?",
        "Model and text encoder share one memory and nothing can be moved out of it: only fewer "
        "bits use less, and products are in bf16.",
        one_memory,
    ),
    Decision(
        "A card without bf16 (RTX 20, GTX) and Qwen-Image?",
        "This model overflows in fp16 and the card has no bf16: ComfyUI computes in float32 what "
        "is not quantized.",
        computes_in_float32,
    ),
    Decision(
        "No GPU?",
        CLAIMS["8 bits on a CPU"].says,
        cpu_alone,
    ),
)


def answers(case: Case) -> tuple[str, ...]:
    """The answers that hold, in the order of the table."""
    return tuple(row.answer for row in DECISIONS if row.holds(case))


def tree() -> str:
    """The table as text: a question, and below it what to do."""
    return "\n".join(
        f"{number:2}. {row.question}\n    -> {row.answer}"
        for number, row in enumerate(DECISIONS, start=1)
    )
