"""The story on one page: a machine and a job in; the ranked ways to run it, with reasons, out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ..devices import REFUSED, rule
from ..errors import Refused
from ..scheme_names import schemes
from ..setup import Setup
from .decisions import Case
from .find_card import GIB
from .job import Job
from .latents import most_frames
from .machine import Machine
from .measured import Measured, usable
from .modes import title_of
from .options import Impossible, options
from .predict import HOST_BYTES, UNIFIED_SHARE, reserve_of
from .rank import ranked, why_not
from .reasons import setup_of


@dataclass(frozen=True)
class Option:
    """A setup, the facts that it rests on, and why it is not the first one (None: it is)."""

    setup: Setup
    case: Case
    why_not_first: str | None = None

    @property
    def title(self) -> str:
        """What people call such a mode."""
        return title_of(self.setup, bool(self.case.found.streamed_bytes))

    def to_json(self) -> dict[str, object]:
        """A setup with what was predicted for it."""
        found, measured = self.case.found, self.case.pick is not None
        return {
            "mode_title": self.title,
            **asdict(self.setup),
            "resident_bytes": found.resident_bytes,
            "streamed_bytes": found.streamed_bytes,
            "activation_bytes": found.work.activation_bytes,
            "seconds": found.seconds.to_json() if self.case.machine.listed else None,
            "products": "measured" if measured else "predicted",
            "support": found.support,
            "short": list(self.case.short),
            "relative_error": round(found.error, 4),
            "why_not_first": self.why_not_first,
        }


@dataclass(frozen=True)
class Advice:
    """The ways to run a job on a machine, best first, and the schemes that cannot run there."""

    machine: Machine
    job: Job
    options: tuple[Option, ...]
    impossible: tuple[Impossible, ...]

    @property
    def best(self) -> Setup:
        """What to do."""
        return self.options[0].setup

    def to_json(self) -> dict[str, object]:
        """The shape on the command line."""
        work = self.job.work
        picture = {**asdict(self.job.picture), "tokens": work.tokens, "passes": work.passes}
        return {
            "model": self.job.name,
            "title": self.job.title,
            "family": self.job.subject.model.family.name,
            "models": self.job.count,
            "goal": self.job.goal,
            "picture": picture,
            "loras": [{"name": x.name, "fixed": x.fixed} for x in self.job.loras],
            "setups": [option.to_json() for option in self.options],
            "impossible": [asdict(row) for row in self.impossible],
        }


def advise(
    machine: Machine, job: Job, measured: Measured | None = None, most: int | None = None
) -> Advice:
    """The `most` best ways to run a job (None: all). Refuses one that fits in no way."""
    picks, unused = usable(measured, machine)
    cases, impossible = options(machine, job, picks)
    if not cases:
        raise _too_large(machine, job)
    best, *others = ranked(cases)[:most]
    first = setup_of(best)
    if unused is not None:
        first = replace(first, reasons=(unused, *first.reasons))
    made = [Option(first, best), *(Option(setup_of(x), x, why_not(best, x)) for x in others)]
    return Advice(machine, job, tuple(made), tuple(impossible))


def _too_large(machine: Machine, job: Job) -> Refused:
    """Nothing fits: what is needed, and what the user can ask less of."""
    held, work = machine.vram_bytes / GIB, job.work
    if machine.unified:
        least = min(job.subject.sizes(name).weight_bytes for name in _runs_on(machine))
        text = job.text_bytes("int8_weight_only")
        needed = (job.count * least + text + reserve_of(work)) / UNIFIED_SHARE
        return Refused(
            "does-not-fit",
            found=f"{job.title} and its text encoder on {machine.name} with {held:.0f} GiB",
            expected=f"{needed / GIB:.0f} GiB of memory, of which a process may use "
            f"{UNIFIED_SHARE:.0%}",
            fix="use a smaller model",
        )
    room = machine.vram_bytes - HOST_BYTES - 2 * job.subject.sizes("none").largest_bytes
    share = max(0.0, room / max(1, work.activation_bytes))
    frames = most_frames(job.latent, job.picture, (work.tokens - work.text_tokens) * share)
    fewer = f"sample at most {frames} frames" if frames > 1 else "sample fewer pixels"
    return Refused(
        "does-not-fit",
        found=f"{job.title}: {work.activation_bytes / GIB:.1f} GiB of activations on "
        f"{machine.name} with {held:.0f} GiB",
        expected="activations that fit beside a few streamed layers",
        fix=fewer if job.picture.batch == 1 else "sample a smaller batch",
    )


def _runs_on(machine: Machine) -> list[str]:
    return [name for name in schemes() if rule(name, machine.device).support != REFUSED]
