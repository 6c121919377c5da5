"""Folder discovery: every module of a package that ends in the asked-for constant, by name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import MappingProxyType
from typing import Any


@cache
def discover(package: str, constant: str) -> MappingProxyType[str, Any]:
    """Import each public module of `package` and return {part.name: part} in file-name order.

    A module whose name starts with an underscore is a private helper of its folder and no part.
    """
    folder = importlib.import_module(package)
    parts: dict[str, Any] = {}
    for info in sorted(pkgutil.iter_modules(folder.__path__), key=lambda info: info.name):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        part = getattr(module, constant)
        parts[part.name] = part
    return MappingProxyType(parts)
