"""The one exception that a user meets: what was found, what was expected, what to do."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault of ours
    """Input, choice or machine that cannot be served; `kind` is a slug: `header-too-large`."""

    def __init__(
        self, kind: str, *, found: str, expected: str, fix: str, layer: str | None = None
    ) -> None:
        self.kind, self.found, self.expected, self.fix, self.layer = (
            kind,
            found,
            expected,
            fix,
            layer,
        )
        at = f" ({layer})" if layer else ""
        super().__init__(f"{kind}{at}: found {found}; expected {expected}; {fix}")

    def to_json(self) -> dict[str, str]:
        """The shape that every refusal has on the command line."""
        facts = {"kind": self.kind, "found": self.found, "expected": self.expected, "fix": self.fix}
        return facts | ({"layer": self.layer} if self.layer else {})
