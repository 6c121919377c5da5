"""What finished recipes took in, how long the others will take out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence

from .plan import Planned

# bytes of source a second that one machine of two cores converts, by scheme: measured with 4 GiB,
# see benchmarks/results; the first finished recipes take their place
MEASURED = {
    "fp8": 1.17e9,
    "fp8_row": 1.74e9,
    "int8": 1.82e9,
    "int8_convrot": 0.91e9,
}
_OTHERS = 0.9e9
START_S = 3.0  # a process that loads torch and plans
PLAN_S = 30.0  # the plan counts as so many seconds that went as planned
_LATEST = 20  # recipes of a scheme that count


class Pace:
    """Seconds of recipes, from earlier runs where there are any and corrected as it goes."""

    def __init__(self, earlier: Iterable[Mapping[str, object]] = ()) -> None:
        self._rates: dict[str, list[float]] = {}
        for line in earlier:
            self._learn(line)
        self.is_own = bool(self._rates)
        self._estimates: dict[str, float] = {}
        self._shares: dict[str, float] = {}
        self._began = 0.0

    def _learn(self, line: Mapping[str, object]) -> None:
        """A line of the log: what one recipe of `at_once` took, as a rate of the machine."""
        scheme, size, seconds = line.get("scheme"), line.get("source_bytes"), line.get("seconds")
        at_once = line.get("at_once")
        numbers = (size, seconds, at_once)
        if line.get("state") != "done" or not isinstance(scheme, str):
            return
        if not all(isinstance(x, int | float) and x > 0 for x in numbers):
            return
        rate = float(size) * float(at_once) / float(seconds)  # type: ignore[arg-type]
        self._rates.setdefault(scheme, []).append(rate)

    def seconds(self, recipe: Planned) -> float:
        """One recipe alone on the machine, without the start of its process."""
        return sum(part.source_bytes / self._rate(part.scheme) for part in recipe.parts)

    def _rate(self, scheme: str) -> float:
        latest = self._rates.get(scheme, [])[-_LATEST:]
        return statistics.median(latest) if latest else MEASURED.get(scheme, _OTHERS)

    def total_s(self, recipes: Sequence[Planned], at_once: int) -> float:
        """All of them; cores are shared, so only the starts overlap."""
        work = sum(map(self.seconds, recipes))
        return work + START_S * len(recipes) / max(1, at_once)

    def begin(self, recipes: Sequence[Planned], at_once: int) -> None:
        """The clock starts."""
        start = START_S / max(1, at_once)
        self._estimates = {x.name: self.seconds(x) + start for x in recipes}
        self._began = time.monotonic()

    def moved(self, name: str, share: float) -> None:
        """This much of a recipe is done, 0 to 1."""
        self._shares[name] = share

    def left_s(self) -> float | None:
        """Of the whole batch, by what was done since it began; None before anything was.

        rest * (measured + PLAN_S) / (planned + PLAN_S): a first small recipe says little yet.
        """
        done = sum(self._estimates[name] * share for name, share in self._shares.items())
        if not done:
            return None
        rest = sum(self._estimates.values()) - done
        elapsed = time.monotonic() - self._began
        return max(0.0, rest) * (elapsed + PLAN_S) / (done + PLAN_S)
