"""Whose loaders are to open a file in, the schemes that it may hold out. Knows no torch."""

from __future__ import annotations

from ..devices import REFUSED, rule
from ..scheme_names import schemes

COMFYUI, FUSEQUANT = "comfyui", "fusequant"
READERS = (COMFYUI, FUSEQUANT)
# read by ComfyUI's loader, but computed as another scheme before 0.38
_MISREAD = frozenset(("int8_weight_only",))


def readable(loads_in: str, device: str | None = None) -> tuple[str, ...]:
    """The schemes whose files a loader opens as they are meant, those that `device` refuses aside.

    `device` is a class of `devices`; None: any.
    """
    found = []
    for name, scheme in schemes().items():
        theirs = scheme.core_reads == "yes" and name not in _MISREAD
        refused = device is not None and rule(name, device).support == REFUSED
        if name != "none" and not refused and (theirs or loads_in == FUSEQUANT):
            found.append(name)
    return tuple(found)
