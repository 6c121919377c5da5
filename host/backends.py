"""The backend that a user or a scheme's name asks for in, the one our layouts are told out."""

from __future__ import annotations

from ..engine.errors import Refused
from ..kernels.registry import backends, refusal
from .report import Report

AUTO, KITCHEN = "auto", "kitchen"
WHERE_IT_CAN = "?"  # at the end of a backend's name: others may take what it refuses
REGISTRY = WHERE_IT_CAN  # no name at all: our layouts, and whoever the registry chooses


def backend_names() -> list[str]:
    """What a node offers: the host's way first, then every backend by name."""
    return [AUTO, KITCHEN, *(name for name in backends() if name != KITCHEN)]


def why_not(name: str) -> str | None:
    """The reason why a backend cannot be used in this process, or None."""
    return refusal(name) if name in backends() else "there is no such backend here"


def forced_backend(asked: str | None, implied: str | None, report: Report) -> str | None:
    """The backend that layers are forced to, `kitchen` for the host's layouts as they are, or None.

    None: nobody was asked for; what the device needs is said by devices.py.

    `asked` by the user is refused when it cannot run; one that is only `implied` by the name of a
    scheme (`fp8-sgl`) is left out with a warning: another backend gives the same numbers. So it
    does for a layer that the backend refuses later: `sgl?`.
    """
    if asked == KITCHEN or (asked or "").endswith(WHERE_IT_CAN):  # the latter was decided before
        return asked
    if asked not in (None, AUTO):
        reason = why_not(str(asked))
        if reason is None:
            return asked
        raise Refused(
            "backend-unavailable",
            found=f"backend {asked}: {reason}",
            expected=f"one of {', '.join(n for n in backends() if why_not(n) is None)}",
            fix="pick auto, or install what the backend needs",
        )
    if implied is None or implied == KITCHEN:
        return None
    reason = why_not(implied)
    if reason is not None:
        report.warn(f"backend {implied} is not used, auto is: {reason}")
        return None
    return f"{implied}{WHERE_IT_CAN}"
