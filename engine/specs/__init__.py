"""The name of a real public model in, its header out: every tensor's name, dtype and shape.

A spec is a source without numbers, so that plans and advice work without the file. The JSON files
are made by `benchmarks/make_specs.py`; `{}` in a name is a block index, counted from 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from ..tensors import TensorSpec

if TYPE_CHECKING:
    import torch

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Spec:
    """A header-only source. `file` is the name of the public file that has this header.

    `detected_as`: what ComfyUI's own detection takes the header for, empty where it was not asked.
    """

    name: str
    title: str
    file: str
    parameters: int
    path: Path
    tensors: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]
    detected_as: str = ""
    kind: str = "spec"

    def read_bytes(self, name: str, at: int = 0, size: int | None = None) -> bytes:
        """Refused: a spec has no numbers."""
        raise self._refusal(name)

    def tensor(self, name: str) -> torch.Tensor:
        """Refused: a spec has no numbers."""
        raise self._refusal(name)

    def prefetch(self, name: str) -> None:
        """Nothing: a spec has no numbers."""

    def close(self) -> None:
        """Nothing: no file is open."""

    def _refusal(self, name: str) -> Refused:
        return Refused(
            "spec-has-no-numbers",
            found=f"the spec {self.name}, a header without weights",
            expected="a checkpoint file",
            fix=f"give the file itself, e.g. {self.file}",
            layer=name,
        )


def names() -> tuple[str, ...]:
    """The models that have a spec."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


@cache
def spec(name: str) -> Spec:
    """The spec of a model by name; refuses an unknown name with the near ones."""
    wanted = name.strip().lower()
    if wanted not in names():
        near = get_close_matches(wanted, names(), n=3, cutoff=0.4) or names()
        raise Refused(
            "unknown-spec",
            found=repr(name),
            expected=f"one of {', '.join(near)}",
            fix="give one of these names, or the file of the model",
        )
    path = _FOLDER / f"{wanted}.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    return Spec(
        name=wanted,
        title=facts["title"],
        file=facts["file"],
        parameters=facts["parameters"],
        path=path,
        tensors=_tensors(facts["tensors"], facts["dtype"]),
        metadata={"format": "pt"},
        detected_as=facts["detected_as"],
    )


def _tensors(rows: Mapping[str, list[Any]], dtype: str) -> dict[str, TensorSpec]:
    """Folded rows {name: [shape, blocks?]} -> one TensorSpec for each tensor."""
    found = {}
    for form, (shape, *blocks) in rows.items():
        listed = [form.replace("{}", str(i)) for i in range(blocks[0])] if blocks else [form]
        found.update({name: TensorSpec(name, dtype, tuple(shape)) for name in listed})
    return found
