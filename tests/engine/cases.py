"""Every fixture of every dialect, from the tables of the modules beside this one.

A module whose name has `dialects` in it may hold READ or TOOLS: id -> a row that begins with
(tensors or bytes, dialect, scheme of the layer, its numbers or None), BLOCKS: id -> (tensors,
scheme, shape, numbers) of core's own, and REFUSED: id -> (tensors, header, dialect, kind of the
refusal). A new table is found by its name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
ELSEWHERE = ("test_formats_foreign",)  # a module that holds REFUSED under another name


@dataclass(frozen=True)
class Case:
    """One file: its content, who claims it, and what is known of its layer."""

    id: str
    content: Any
    dialect: str
    scheme: str | None = None
    numbers: torch.Tensor | None = None
    refusal: str | None = None
    header: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """The file, in `folder`."""
        if isinstance(self.content, bytes):
            path = folder / f"{self.id}.gguf"
            path.write_bytes(self.content)
            return path
        path = folder / f"{self.id}.safetensors"
        own = {name: tensor.clone().contiguous() for name, tensor in self.content.items()}
        save_file(own, path, self.header or None)
        return path


@cache
def cases() -> dict[str, Case]:
    """Every case by id; a name that is used twice is a mistake of the tables."""
    found: dict[str, Case] = {}
    seen: list[Any] = []  # a table that another module imports is the same one
    stems = sorted(path.stem for path in HERE.glob("*dialects*.py"))
    for stem in [x for x in stems if not x.startswith("test_")] + list(ELSEWHERE):
        module = import_module(f".{stem}", __package__)
        for name, make in TABLES.items():
            table = getattr(module, name, {})
            if any(table is other for other in seen):
                continue
            seen.append(table)
            for case in (make(key, row) for key, row in table.items()):
                if case.id in found:
                    raise ValueError(f"two fixtures are called {case.id}")
                found[case.id] = case
    return found


def _read(name: str, row: Any) -> Case:
    content, dialect, scheme, numbers = row[:4]
    header = getattr(row, "metadata", {})
    return Case(name, content, dialect, scheme, numbers, header=dict(header))


def _refused(name: str, row: Any) -> Case:
    content, header, dialect, refusal = row
    return Case(name, content, dialect, refusal=refusal, header=dict(header))


def _blocks(name: str, row: Any) -> Case:
    content, scheme, _, numbers = row
    return Case(name, content, "core", scheme, numbers)


TABLES = {"READ": _read, "TOOLS": _read, "BLOCKS": _blocks, "REFUSED": _refused}
