"""Nothing in, the tables that people look up before they choose out: cards, modes, decisions.

They are made by the same code that advises. Every figure says whether it is predicted or measured.
"""

from __future__ import annotations

from ..errors import Refused
from ..measure.table import markdown_table
from ..specs import spec
from .advisor import advise
from .claims import CORE, PREDICTED, rows
from .decisions import tree
from .find_card import GIB
from .job import Job, Lora, Wishes, job_of
from .machine import machine_of
from .modes import MODES, ORIGINAL, Mode
from .predict import Prediction, predict

# one card for each tier that people ask about: (name, GB)
TIERS = (
    ("RTX 2060", 6), ("GTX 1080", 8), ("RTX 3070", 8), ("RTX 4060", 8), ("RTX 3080", 10),
    ("RTX 3060", 12), ("RTX 4070", 12), ("RTX 4060 Ti", 16), ("RTX 5080", 16), ("RTX 3090", 24),
    ("RTX 4090", 24), ("RTX 5090", 32), ("RTX A6000", 48), ("L40S", 48), ("A100", 80),
    ("H100", 80), ("RX 7900 XTX", 24), ("Arc B580", 12), ("M4 Pro", 48), ("M4 Max", 128),
    ("cpu", None),
)  # fmt: skip
MODELS = ("flux1-dev", "qwen-image-edit-2511", "wan2.2-i2v-14b")
RAM_GB = 64.0
REFERENCE_CARD, REFERENCE_MODEL = ("RTX 4090", 24), "qwen-image-edit-2511"
TEXT = "int8_weight_only"


def _job(name: str, loras: tuple[Lora, ...] = ()) -> Job:
    return job_of([spec(name)], Wishes(loras=loras))


def tier_row(card: str, vram_gb: int | None) -> tuple[str, ...]:
    """A card: for each model the mode, the scheme and the predicted VRAM (RAM without a GPU)."""
    machine = machine_of(card, vram_gb, RAM_GB)
    cells = []
    for name in MODELS:
        try:
            option = advise(machine, _job(name), most=1).options[0]
        except Refused:
            cells.append("does not fit")
            continue
        needs = option.setup.needs
        used = needs.vram_bytes if machine.vram_bytes else needs.ram_bytes
        mode = f"{option.title}, `{option.setup.scheme}`"
        streamed = option.case.found.streamed_bytes / GIB
        more = f", {streamed:.1f} GiB more streamed {PREDICTED}" if streamed else ""
        more += ", RAM is short" if option.case.short else ""
        cells.append(f"{mode}: {used / GIB:.1f} GiB {PREDICTED}{more}")
    return (f"{machine.name}{f', {vram_gb} GB' if vram_gb else ''}", *cells)


def tiers() -> str:
    """Which card gets which mode, as Markdown."""
    titles = [spec(name).title for name in MODELS]
    head = ("GPU", *titles)
    told = (
        f"Goal speed, {RAM_GB:.0f} GB of RAM (Macs: as much as the table says, in all), no LoRA, "
        "1024x1024 or 832x480 with 81 frames. VRAM while sampling; on the CPU it is RAM. "
        "Low VRAM modes use what there is and stream the rest."
    )
    return f"{markdown_table(head, [tier_row(*tier) for tier in TIERS])}\n\n{told}"


def mode_prediction(mode: Mode) -> Prediction:
    """A mode on the reference card, with one LoRA of rank 64."""
    machine = machine_of(*REFERENCE_CARD, RAM_GB)
    job = _job(REFERENCE_MODEL, (Lora("style", fixed=False),))
    live = mode.loras == "live"
    sizes, text = job.subject.sizes(mode.scheme), job.text_bytes(TEXT)
    found = predict(machine, job, sizes, text, live=live, low=mode.low)
    if found is None:
        raise ValueError(f"{mode.name} does not fit {REFERENCE_CARD}")
    return found


def mode_row(mode: Mode, weight_error: float) -> tuple[str, ...]:
    """A mode: VRAM, time of a step, what it loses. `weight_error`: measured, of fp8."""
    found = mode_prediction(mode)
    loras = "LoRA beside the weights" if mode.loras == "live" else "LoRA fused first"
    lost = (
        "as the original"
        if mode.scheme == "none"
        else f"weight error {weight_error:.4f} measured, {loras}"
    )
    streamed = ""
    if found.streamed_bytes:
        streamed = f", {found.streamed_bytes / GIB:.1f} GiB of it streamed in a pass {PREDICTED}"
    return (
        mode.name,
        f"{found.vram_bytes / GIB:.1f} GiB {PREDICTED}",
        f"{found.seconds.step:.1f} s a step {PREDICTED}{streamed}",
        lost,
        mode.best_for,
    )


def modes(weight_error: float) -> str:
    """The five modes on the reference card, as Markdown."""
    head = ("mode", "VRAM", "speed", "quality", "best for")
    card = f"{REFERENCE_CARD[0]}, {REFERENCE_CARD[1]} GB"
    told = (
        f"{spec(REFERENCE_MODEL).title} on an {card}: 1024x1024 with one reference picture and "
        "guidance, one LoRA of rank 64. The weight error is the mean of fp8 in the table of "
        f"conversions below. {ORIGINAL} does not fit this card as a whole; int8 schemes take the "
        "VRAM of FP8."
    )
    return f"{markdown_table(head, [mode_row(mode, weight_error) for mode in MODES])}\n\n{told}"


def decisions() -> str:
    """The decision tree as a block of text."""
    return f"```\n{tree()}\n```"


def speed(link: str) -> str:
    """What is true about speed, as Markdown; `link` leads to the result files."""
    shown = []
    for topic, says, basis in rows():
        known = basis in (PREDICTED, CORE)
        shown.append((topic, says, basis if known else f"measured: [{basis}]({link}/{basis})"))
    return markdown_table(("", "what is true", "rests on"), shown)
