"""Ways to run a job in, the same best first out, each with the sentence why it is not first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..devices import AUTO, NATIVE
from ..scheme_names import schemes
from .decisions import Case
from .find_card import GIB
from .job import MEMORY, QUALITY, SPEED

ALIKE = 1.05  # times and sizes that differ by less count as one
COARSE = 0.05  # relative error above which a scheme must earn its place
WORTH = 1.2  # times as fast: what speed must gain to be worth a coarse scheme
STEPS = 20  # of a run, over which the exchange of models that take turns is spread
# schemes to prefer on a device class where they are native and as fast as others
PREFERRED = {"sm_90": ("fp8_block128",)}

Key = tuple[float, ...]


def step_s(case: Case) -> float:
    """A step, with its share of the exchange of models."""
    return case.found.seconds.step + case.found.seconds.exchange / STEPS


def _time(case: Case) -> int:
    """The time of a step in steps of ALIKE, so that small differences do not decide.

    A coarse scheme counts as WORTH times slower.
    """
    seconds = step_s(case) * (WORTH if case.found.error > COARSE else 1.0)
    return round(math.log(max(seconds, 1e-6)) / math.log(ALIKE))


def _kept_whole(case: Case) -> bool:
    """The original fits, and no measurement says that something else is worth its rounding."""
    return case.pick is None and case.original and case.found.fits


def speed_key(case: Case) -> Key:
    """The original where it fits, unless measurements speak; then the time of a step."""
    return (not _kept_whole(case), _time(case))


def quality_key(case: Case) -> Key:
    """The smallest error; then the time."""
    return (case.found.error, _time(case))


def memory_key(case: Case) -> Key:
    """What stays on the card first, then the fewest bytes; then the time."""
    sizes = math.log(case.found.sizes.weight_bytes) / math.log(ALIKE)
    return (case.found.streamed_bytes > 0, round(sizes), _time(case))


KEYS: dict[str, Callable[[Case], Key]] = {
    SPEED: speed_key,
    MEMORY: memory_key,
    QUALITY: quality_key,
}


def ranked(cases: Sequence[Case]) -> list[Case]:
    """Best first. What lacks RAM or disk comes last, the least demanding of it first."""

    def key(case: Case) -> tuple[Key, Key, Key]:
        short = (len(case.short) > 0, case.found.ram_bytes if case.short else 0)
        return short, KEYS[case.job.goal](case), _ties(case)

    return sorted(cases, key=key)


def _ties(case: Case) -> Key:
    """Among equals: preferred on this device, exact, what `auto` means, what core opens."""
    device, native = case.machine.device, case.found.support == NATIVE
    return (
        not (native and case.scheme in PREFERRED.get(device, ())),
        case.found.error,
        case.scheme != AUTO[device][0],
        schemes()[case.scheme].core_reads != "yes",
        case.found.vram_bytes,
    )


def why_not(best: Case, other: Case) -> str:
    """The first thing in which another way is behind the best one."""
    for says in (_lacks, _rounds, _slower, _worse, _larger):
        said = says(best, other)
        if said is not None:
            return said
    return f"As good in all that is predicted: {best.scheme} is what auto means here."


def _lacks(best: Case, other: Case) -> str | None:
    return other.short[0] if other.short and not best.short else None


def _rounds(best: Case, other: Case) -> str | None:
    if best.job.goal != SPEED or not _kept_whole(best):
        return None
    faster = step_s(best) / max(step_s(other), 1e-9)
    if faster < ALIKE:
        return "The original fits and loses nothing, and this is no faster."
    return (
        f"The original fits and loses nothing; this is predicted to be {faster:.1f} times as fast, "
        "which --measured can show."
    )


def _slower(best: Case, other: Case) -> str | None:
    ours, theirs = step_s(best), step_s(other)
    if best.job.goal != SPEED or theirs < ours * ALIKE:
        return None
    basis = "predicted" if best.pick is None or other.pick is None else "measured"
    if not best.machine.listed:
        return f"Slower: {theirs / ours:.1f} times the time of a step, {basis}."
    return f"Slower: {theirs:.2f} s a step, {basis}, in the place of {ours:.2f} s."


def _worse(best: Case, other: Case) -> str | None:
    ours, theirs = best.found.error, other.found.error
    if best.job.goal == MEMORY or theirs <= ours:
        return None
    return f"Less exact: predicted relative error up to {theirs:.3f}, in the place of {ours:.3f}."


def _larger(best: Case, other: Case) -> str | None:
    ours, theirs = best.found.sizes.weight_bytes, other.found.sizes.weight_bytes
    if theirs > ours * ALIKE:
        return f"Larger: {theirs / GIB:.1f} GiB of weights, in the place of {ours / GIB:.1f} GiB."
    if step_s(other) > step_s(best) * ALIKE:
        return "Slower at the same size, predicted."
    if other.found.error > best.found.error:
        return "Less exact at the same size."
    return None
