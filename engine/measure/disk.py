"""Files in, seconds out: the copy and the read that a conversion is compared with."""

from __future__ import annotations

import os
import time
from pathlib import Path

CHUNK_BYTES = 4 << 20


def copy_and_sync(source: str | Path, target: str | Path) -> float:
    """Copy a file in runs of 4 MB and wait for the disk; the seconds that took."""
    began = time.perf_counter()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with open(source, "rb", buffering=0) as reader, open(target, "wb", buffering=0) as writer:
        while count := reader.readinto(buffer):
            view = buffer[:count]
            while view:
                view = view[writer.write(view) or 0 :]
        os.fsync(writer.fileno())
    return time.perf_counter() - began


def read_through(path: str | Path) -> float:
    """Read a file once from its start to its end; the seconds that took."""
    began = time.perf_counter()
    buffer = bytearray(CHUNK_BYTES)
    with open(path, "rb", buffering=0) as reader:
        while reader.readinto(buffer):
            pass
    return time.perf_counter() - began


def drop_from_cache(path: str | Path) -> bool:
    """Put a file out of the page cache, so that the next read is cold; False where none can."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with open(path, "rb") as file:
        os.fsync(file.fileno())  # pages that still wait for the disk would stay
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
