"""Memory that was freed in small pieces between large ones in, given back to the system out.

The C library of Linux keeps it for later: while layers are quantized one after the other that came
to more than the finished model, measured on a ViT-H.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


@cache
def _trim() -> Callable[[int], int] | None:
    """glibc's function; other C libraries return freed memory by themselves or have none."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Return what is free to the system; what is in use is not touched. Milliseconds."""
    trim = _trim()
    if trim is not None:
        trim(0)
