"""Planned recipes and how they ended in, the rows and totals of the answer out: plain JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .entry import Trouble
from .plan import Planned, PlannedPart
from .task import DONE, FAILED, REFUSED, Json, Outcome

ALREADY, PLANNED = "done already", "planned"
STATES = (PLANNED, DONE, ALREADY, REFUSED, FAILED)


@dataclass(frozen=True)
class Row:
    """One recipe of the answer. `facts` are those of its end."""

    name: str
    state: str
    plan: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Json, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, planned: Planned, seconds: float, layers_at_once: int | None) -> Row:
        """As planned: to be run, or done already."""
        plan: Json = {"bytes": planned.bytes}
        if layers_at_once is not None:
            plan |= {
                "memory_bytes": planned.need_bytes(layers_at_once),
                "layers_at_once": layers_at_once,
                "estimated_seconds": round(seconds, 1),
            }
        state = ALREADY if planned.done else PLANNED
        return cls(planned.name, state, plan, tuple(map(_file, planned.parts)))

    @classmethod
    def left_out(cls, troubles: Sequence[Trouble]) -> list[Row]:
        """One row for each recipe that could not be planned, all its problems in it."""
        found: dict[str, list[Json]] = {}
        for trouble in troubles:
            found.setdefault(trouble.recipe, []).append(dict(trouble.refusal.to_json()))
        return [
            cls(name, REFUSED, facts={"error": told[0], "problems": told})
            for name, told in found.items()
        ]

    def ended(self, outcome: Outcome) -> Row:
        """With how it ended."""
        facts = dict(outcome.facts)
        if outcome.state != DONE:
            attempts = facts.pop("attempts", None)
            told = {"error": facts} | ({"attempts": attempts} if attempts else {})
            return replace(self, state=outcome.state, facts=told)
        made = {file["part"]: file for file in facts.pop("files")}
        files = tuple({**file, **made[file["part"]]} for file in self.files)
        facts["seconds"] = round(facts["seconds"], 3)
        return replace(self, state=DONE, files=files, facts=facts)

    @property
    def error(self) -> Mapping[str, Any]:
        """Why it was not done."""
        found: Mapping[str, Any] = self.facts.get("error", {})
        return found

    def to_json(self) -> Json:
        """A recipe of the answer."""
        return {
            "name": self.name,
            "state": self.state,
            **self.plan,
            "files": [dict(file) for file in self.files],
            **self.facts,
        }

    def to_log(self, planned: Planned, at_once: int) -> Json:
        """A line of the log; from it the next run knows how fast this machine is. `at_once` is 0
        where other machines did the work.
        """
        return {
            "name": self.name,
            "state": self.state,
            "scheme": planned.scheme,
            "source_bytes": planned.source_bytes,
            "bytes": planned.bytes,
            "at_once": at_once,
            "out": [str(part.part.out) for part in planned.parts],
            "errors": [file.get("error") for file in self.files],
            **self.facts,
        }


def _file(planned: PlannedPart) -> Json:
    part = planned.part
    return {
        "part": part.name,
        "source": str(part.source),
        "loras": list(planned.loras),
        "scheme": planned.scheme,
        "device": part.options["device"],
        "out": str(part.out),
        "bytes": planned.bytes,
        "replaces": bool(planned.replaces_bytes),
        "warnings": list(planned.warnings),
    }


def answer(
    rows: Sequence[Row], facts: Mapping[str, Any], estimate_s: float, source: str, seconds: float
) -> Json:
    """The whole answer: recipes, totals, and how the batch is run."""
    states = Counter(row.state for row in rows)
    done = [row for row in rows if row.state in (DONE, ALREADY)]
    return {
        "recipes": [row.to_json() for row in rows],
        "totals": {
            "recipes": len(rows),
            **{state.replace(" ", "_"): states[state] for state in STATES},
            "bytes": sum(row.plan["bytes"] for row in done),
            "bytes_to_write": sum(row.plan["bytes"] for row in rows if row.state == PLANNED),
            "estimated_seconds": round(estimate_s, 1),
            "estimated_from": source,
            "seconds": round(seconds, 3),
        },
        **facts,
    }
