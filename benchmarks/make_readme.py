"""README.md in, the same with its generated sections made again out: `python make_readme.py`.

A section lies between `<!-- NAME -->` and `<!-- /NAME -->`; SECTIONS says what makes each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from fusequant.engine import devices

README = Path(__file__).resolve().parent.parent / "README.md"
SECTIONS: dict[str, Callable[[], str]] = {"devices": devices.table}


def filled(text: str) -> str:
    """The text of a README with every section of SECTIONS replaced by what makes it."""
    for name, make in SECTIONS.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(opening)
        _, ended, after = rest.partition(closing)
        if not (found and ended):
            raise ValueError(f"README.md has no section between {opening} and {closing}")
        text = f"{before}{opening}\n\n{make()}\n\n{closing}{after}"
    return text


def main() -> int:
    """Write README.md again where a section has changed; 0 in any case."""
    old = README.read_text(encoding="utf-8")
    new = filled(old)
    if new != old:
        README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
