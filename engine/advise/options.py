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
from .measured import Pick
from .predict import Pace, predict
from .subject import Sizes

Picks = Mapping[str, Pick]  # scheme: what was measured of it


@dataclass(frozen=True)
class Impossible:
    """A scheme that cannot run there at all."""

    scheme: str
    why: str


def options(
    machine: Machine, job: Job, picks: Picks | None = None
) -> tuple[list[Case], list[Impossible]]:
    """(ways to run the job, schemes that cannot)."""
    made: list[Case] = []
    impossible: list[Impossible] = []
    for scheme in schemes():
        found = rule(scheme, machine.device)
        if found.support == REFUSED:
            impossible.append(Impossible(scheme, found.why))
            continue
        case = _case(machine, job, job.subject.sizes(scheme), picks or {})
        if case is None:
            impossible.append(Impossible(scheme, _too_large(machine)))
        else:
            made.append(case)
    return made, impossible


def _too_large(machine: Machine) -> str:
    streamed = ", even streamed" if machine.discrete else ""
    return f"too large for {machine.name} with {machine.vram_bytes / GIB:g} GiB{streamed}"


def _case(machine: Machine, job: Job, sizes: Sizes, picks: Picks) -> Case | None:
    """One scheme, with the first way to load the text encoders that RAM allows."""
    case = None
    for text in rules.text_choices(machine, job):
        case = _with_text(machine, job, sizes, picks, text)
        if case is None or not case.short:
            break
    return case


def _pace(pick: Pick | None, picks: Picks) -> Pace | None:
    """Beside measured schemes no gain is assumed of one that was not measured."""
    if pick is not None:
        return Pace(1 / pick.ratio, measured=True)
    return Pace(1.0) if picks else None


def _with_text(
    machine: Machine, job: Job, sizes: Sizes, picks: Picks, text: rules.Text
) -> Case | None:
    pick = picks.get(sizes.scheme)
    size = job.text_bytes(text.scheme)
    blocked = rules.no_fusing(machine, job, sizes)
    loras = rules.fate_of_loras(job, sizes.scheme, blocked is not None)
    found = predict(machine, job, sizes, size, loras in (LIVE, BOTH), _pace(pick, picks))
    if found is None:
        return None
    public = rules.published(machine, job, sizes) if blocked or not job.loras else None
    lacking = (None if public else blocked, rules.short_ram(machine, found))
    short = tuple(said for said in lacking if said)
    files = public.files if public else ()
    return Case(machine, job, found, text, loras, blocked, short, files, pick)
