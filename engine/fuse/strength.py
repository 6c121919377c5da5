"""A LoRA as a user writes it in one word in, its path and its strength out."""

from __future__ import annotations

import re

_STRENGTH = re.compile(r"(?P<path>.+):(?P<strength>[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)")


def with_strength(text: str) -> tuple[str, float]:
    """`FILE[:STRENGTH]`, split at the last colon only if a number follows it; 1 without one."""
    found = _STRENGTH.fullmatch(text)
    return (found["path"], float(found["strength"])) if found else (text, 1.0)
