"""Something wrong in a file that it can still be read with: told by inspect, mended by repair."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """`kind` is a stable slug, e.g. `scale-not-finite`; `layer` None means the whole file."""

    kind: str
    found: str
    expected: str
    fix: str
    layer: str | None = None

    def to_json(self) -> dict[str, str | None]:
        return {
            "kind": self.kind,
            "layer": self.layer,
            "found": self.found,
            "expected": self.expected,
            "fix": self.fix,
        }
