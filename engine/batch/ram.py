"""This machine in, the memory that can still be used out: of the system and of its container."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from ..measure.hardware import ram_bytes

SHARE = 0.75  # of what is available; the rest is for the page cache and for other programs
_UNKNOWN_BYTES = 4 << 30  # where nothing tells it
_CGROUP = Path("/sys/fs/cgroup")


class _MemoryStatus(ctypes.Structure):
    """Windows' MEMORYSTATUSEX."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("total", "available", "page", "page_available")),
        *((name, ctypes.c_uint64) for name in ("virtual", "virtual_available", "extended")),
    )


def available_bytes() -> int:
    """Memory that new processes may take without swapping."""
    found = [x for x in (_meminfo(), _cgroup(_CGROUP), _windows()) if x is not None]
    if found:
        return min(found)
    return (ram_bytes() or 2 * _UNKNOWN_BYTES) // 2


def usual_cap() -> int:
    """What a batch takes where the user names no limit."""
    return int(available_bytes() * SHARE)


def _meminfo() -> int | None:
    """Linux."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    kib = next(found, None)
    return int(kib) * 1024 if kib else None


def _cgroup(folder: Path) -> int | None:
    """A container's limit (version 2) less what cannot be given back; None without a limit."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        current = int((folder / "memory.current").read_text(encoding="ascii"))
        stat = dict(
            line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines()
        )
    except (OSError, ValueError):
        return None
    if not limit.isdecimal():
        return None
    return max(0, int(limit) - current + int(stat.get("file", 0)))


def _windows() -> int | None:
    if sys.platform != "win32":
        return None
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.available)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1
