"""What a user calls a scheme in, the scheme's name and the backend that the name asks for out."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache

from .errors import Refused
from .parts import discover
from .scheme import Scheme


def schemes() -> dict[str, Scheme]:
    """Every scheme by name."""
    return dict(discover(f"{__package__}.schemes", "SCHEME"))


@cache
def _known() -> dict[str, tuple[str, str | None]]:
    names: dict[str, tuple[str, str | None]] = {}
    for scheme in schemes().values():
        names |= {
            _plain(alias): (scheme.name, backend) for alias, backend in scheme.aliases.items()
        }
        names[_plain(scheme.name)] = (scheme.name, None)
    return names


def _plain(name: str) -> str:
    return "-".join(name.lower().replace("_", " ").replace("-", " ").split())


def resolve(name: str) -> tuple[str, str | None]:
    """A scheme's name, an alias or another tool's name -> (scheme, backend or None).

    `fp8-sgl` -> ("fp8_row", "sgl"). Case, blanks, `-` and `_` make no difference. An unknown name
    is refused with the near ones first.
    """
    known, wanted = _known(), _plain(name)
    if wanted in known:
        return known[wanted]
    near = dict.fromkeys(known[match][0] for match in get_close_matches(wanted, known, n=3))
    listed = [*near, *(scheme for scheme in schemes() if scheme not in near)]
    raise Refused(
        "unknown-scheme",
        found=repr(name),
        expected=f"one of {', '.join(listed)}, or a name such as fp8-sgl or int8-torchao",
        fix=f"ask for {listed[0]}" if near else "pick one of these",
    )
