"""The ways to round a weight by their names. Knows no torch."""

from __future__ import annotations

from .errors import Refused

NEAREST, SEARCH, LEARNED = "nearest", "search", "learned"
ROUNDINGS = (NEAREST, SEARCH, LEARNED)


def known_rounding(name: str) -> None:
    """Refuse any other name."""
    if name not in ROUNDINGS:
        raise Refused(
            "unknown-rounding",
            found=repr(name),
            expected=f"one of {', '.join(ROUNDINGS)}",
            fix=f"leave it out for {NEAREST}",
        )
