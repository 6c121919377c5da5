"""A machine and a job in, every way to run it there out, before they are ranked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..devices import REFUSED, rule
from ..scheme_names import schemes
from ..setup import BOTH, LIVE
from . import rules
from .decisions import Case
from .find_card import GIB
from .job import Job
from .machine import Machine
from .predict import Pace, predict
from .subject import Sizes

Ratios = Mapping[str, float]  # scheme: measured time of its products over 16-bit ones


@dataclass(frozen=True)
class Impossible:
    """A scheme that cannot run there at all."""

    scheme: str
    why: str


def options(
    machine: Machine, job: Job, ratios: Ratios | None = None
) -> tuple[list[Case], list[Impossible]]:
    """(ways to run the job, schemes that cannot)."""
    made: list[Case] = []
    impossible: list[Impossible] = []
    for scheme in schemes():
        found = rule(scheme, machine.device)
        if found.support == REFUSED:
            impossible.append(Impossible(scheme, found.why))
            continue
        case = _case(machine, job, job.subject.sizes(scheme), ratios or {})
        if case is None:
            impossible.append(Impossible(scheme, _too_large(machine)))
        else:
            made.append(case)
    return made, impossible


def _too_large(machine: Machine) -> str:
    streamed = ", even streamed" if machine.discrete else ""
    return f"too large for {machine.name} with {machine.vram_bytes / GIB:g} GiB{streamed}"


def _case(machine: Machine, job: Job, sizes: Sizes, ratios: Ratios) -> Case | None:
    """One scheme, with the first way to load the text encoders that RAM allows."""
    case = None
    for text in rules.text_choices(machine, job):
        case = _with_text(machine, job, sizes, ratios, text)
        if case is None or not case.short:
            break
    return case


def _pace(ratio: float | None, ratios: Ratios) -> Pace | None:
    """Beside measured schemes no gain is assumed of one that was not measured."""
    if ratio is not None:
        return Pace(1 / ratio, measured=True)
    return Pace(1.0) if ratios else None


def _with_text(
    machine: Machine, job: Job, sizes: Sizes, ratios: Ratios, text: rules.Text
) -> Case | None:
    ratio = ratios.get(sizes.scheme)
    size = job.text_bytes(text.scheme)
    blocked = rules.no_fusing(machine, job, sizes)
    loras = rules.fate_of_loras(job, sizes.scheme, blocked is not None)
    found = predict(machine, job, sizes, size, loras in (LIVE, BOTH), _pace(ratio, ratios))
    if found is None:
        return None
    public = rules.published(machine, job, sizes) if blocked or not job.loras else None
    lacking = (None if public else blocked, rules.short_ram(machine, found))
    short = tuple(said for said in lacking if said)
    files = public.files if public else ()
    return Case(machine, job, found, text, loras, blocked, short, files, ratio)
