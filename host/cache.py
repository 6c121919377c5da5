"""Keys in, files of our cache out: looked up, checked, and the oldest removed to keep the limit.

The cache is a folder of complete files, written under another name first. Several servers may use
it at once: a file that is gone is made again, one that two of them make is the same.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.errors import Refused
from ..engine.files.open import open_source
from .fingerprint import Key

log = logging.getLogger(__name__)

MAX_BYTES = 60 * 10**9
FREE_SHARE = 0.2  # of the disk's free space, the cache's own files counted as free
FACTS = "fusequant_cache"  # the metadata key of what a cached file tells about itself
LEFT_OVER_S = 24 * 3600  # a half-written file of this age has no writer any more
PATTERN = "*-*.safetensors"


@dataclass(frozen=True)
class Entry:
    """A cached file that is whole. `facts` were written with it."""

    path: Path
    facts: dict[str, Any]


def find(folder: Path, key: Key) -> Entry | None:
    """The whole entry of a key, marked as used now; a damaged one is removed."""
    path = folder / key.file_name
    if not path.is_file():
        return None
    try:
        entry = read(path)
    except Refused as refused:
        log.warning("the cached %s is damaged and is made again: %s", path.name, refused)
        _remove(path)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return entry


def read(path: Path) -> Entry:
    """The entry at `path`; refuses one whose header, size or facts are broken. Reads the header."""
    source = open_source(path)
    try:
        text = source.metadata.get(FACTS, "")
    finally:
        source.close()
    try:
        facts = json.loads(text)
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise Refused(
            "cache-entry",
            found=f"{path.name} without what it was made from",
            expected="a file that this cache wrote",
            fix="nothing to do: it is made again",
        )
    return Entry(path, facts)


def kin(folder: Path, key: Key) -> bool:
    """Whether the same recipe with other LoRA strengths is cached."""
    return any(path.name != key.file_name for path in folder.glob(f"{key.kin}-*.safetensors"))


def entries(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Every file of the cache with its size and date, the one used longest ago first."""
    found = []
    for path in folder.glob(PATTERN):
        with contextlib.suppress(OSError):  # another server removed it
            found.append((path, path.stat()))
    return sorted(found, key=lambda item: item[1].st_mtime)


def limit_bytes(folder: Path) -> int:
    """How large the cache may be: the smaller of 60 GB and a fifth of the free disk."""
    own = sum(stat.st_size for _, stat in entries(folder))
    return min(MAX_BYTES, int(FREE_SHARE * (shutil.disk_usage(folder).free + own)))


def make_room(folder: Path, size_bytes: int) -> bool:
    """Remove the files used longest ago until one of `size_bytes` fits; False if it never can."""
    limit = limit_bytes(folder)
    if size_bytes > limit:
        return False
    for path in folder.glob(".*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_OVER_S:
                path.unlink()
    held = entries(folder)
    total = sum(stat.st_size for _, stat in held)
    for path, stat in held:
        if total + size_bytes <= limit:
            break
        if _remove(path):
            log.info("removed %s from the cache to make room", path.name)
            total -= stat.st_size
    return total + size_bytes <= limit


def _remove(path: Path) -> bool:
    """Remove a file; one that is in use on Windows stays."""
    try:
        path.unlink(missing_ok=True)
    except OSError as fault:
        log.info("%s cannot be removed from the cache: %s", path.name, fault)
        return False
    return True
