"""A tier of cards and a job in, what the Advisor says of it out: scheme, VRAM mode, text encoder.

Nothing is decided here: options, ranks and rules are the Advisor's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from ..engine.advise.decisions import Case
from ..engine.advise.find_card import GIB
from ..engine.advise.job import SPEED, Job, Lora, Wishes, job_of
from ..engine.advise.machine import machine_of
from ..engine.advise.options import options
from ..engine.advise.predict import predict
from ..engine.advise.rank import ranked
from ..engine.advise.rules import mode
from ..engine.setup import LOW
from ..engine.specs import spec


@dataclass(frozen=True)
class Tier:
    """Cards with much the same memory. The first one is asked about: it has the least.

    `cards`: (name, GB). `ram_gb`: what such a machine has, all of it where memory is one.
    """

    key: str
    title: str
    cards: tuple[tuple[str, int], ...]
    ram_gb: int

    @property
    def card(self) -> str:
        """`RTX 4060, 8 GB`."""
        return "{}, {} GB".format(*self.cards[0])


TIERS: Mapping[str, Tier] = {
    tier.key: tier
    for tier in (
        Tier("6gb", "6 GB", (("RTX 2060", 6), ("RTX 3050", 6)), 32),
        Tier("8gb", "8 GB", (("RTX 4060", 8), ("RTX 3070", 8), ("RTX 5060", 8)), 32),
        Tier("10-12gb", "10 to 12 GB", (("RTX 3080", 10), ("RTX 3060", 12), ("RTX 5070", 12)), 32),
        Tier("16gb", "16 GB", (("RTX 4060 Ti", 16), ("RTX 4080", 16), ("RTX 5080", 16)), 64),
        Tier("24gb", "24 GB", (("RTX 3090", 24), ("RTX 4090", 24)), 64),
        Tier("48gb", "48 GB and more", (("RTX A6000", 48), ("L40S", 48)), 128),
        Tier("apple", "Apple silicon", (("M4 Pro", 48), ("M4 Max", 64)), 48),
    )
}
ADA = Tier("8gb", "8 GB", (("RTX 4060", 8), ("RTX 5060", 8)), 32)  # cards that multiply FP8
ADA_24 = Tier("24gb", "24 GB", (("RTX 4090", 24),), 64)
DISTILL, STYLE = Lora("distill LoRA", fixed=True), Lora("style LoRA", fixed=False)


@dataclass(frozen=True)
class Wanted:
    """A job as the Advisor takes it. `schemes`: one of these (None: any); `low`: none resident."""

    spec: str
    loras: tuple[Lora, ...] = ()
    goal: str = SPEED
    schemes: tuple[str, ...] | None = None
    low: bool = False


@dataclass(frozen=True)
class Choice:
    """What the nodes of a workflow are set to, and what is predicted for each card of the tier."""

    tier: Tier
    wanted: Wanted
    scheme: str
    mode: str
    limit_gb: float
    buffer_gb: float
    text_scheme: str
    text_device: str
    cases: tuple[tuple[str, Case], ...]


def choose(tier: Tier, wanted: Wanted) -> Choice:
    """Ask for the first card; predict the same scheme for the others of the tier."""
    case = _cases(tier, wanted, 0)[0]
    if wanted.low:
        case = _low(case)
    named, limit, buffer = mode(case.machine, case.job, case.found)
    others = [_as_chosen(tier, wanted, number, case.scheme) for number in range(len(tier.cards))]
    cards = ["{}, {} GB".format(*card) for card in tier.cards]
    return Choice(
        tier=tier,
        wanted=wanted,
        scheme=case.scheme,
        mode=LOW if wanted.low else named,
        limit_gb=_gb(limit),
        buffer_gb=_gb(buffer),
        text_scheme=case.text.scheme,
        text_device=case.text.device,
        cases=tuple(
            (card, found) for card, found in zip(cards, others, strict=True) if found is not None
        ),
    )


def _gb(size: int | None) -> float:
    """A size as VRAM Manager takes it: steps of half a GiB, 0 where it is left to the node."""
    return 0.0 if size is None else round(2 * size / GIB) / 2


@cache
def _job(wanted: Wanted) -> Job:
    return job_of([spec(wanted.spec)], Wishes(goal=wanted.goal, loras=wanted.loras))


@cache
def _cases(tier: Tier, wanted: Wanted, number: int) -> tuple[Case, ...]:
    """Every way to run the job on a card, best first."""
    cases, _ = options(machine_of(*tier.cards[number], tier.ram_gb), _job(wanted))
    allowed = wanted.schemes
    return tuple(x for x in ranked(cases) if allowed is None or x.scheme in allowed)


def _as_chosen(tier: Tier, wanted: Wanted, number: int, scheme: str) -> Case | None:
    """The way with this scheme, where it runs there."""
    cases = [case for case in _cases(tier, wanted, number) if case.scheme == scheme]
    return (_low(cases[0]) if wanted.low else cases[0]) if cases else None


def _low(case: Case) -> Case:
    """The same with no weight that stays on the card."""
    text, sizes = case.job.text_bytes(case.text.scheme), case.found.sizes
    live = any(not lora.fixed for lora in case.job.loras)
    found = predict(case.machine, case.job, sizes, text, live=live, low=True)
    return case if found is None else replace(case, found=found)
