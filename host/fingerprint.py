"""A source and the host's patches in, a key out that is equal for equal results.

Headers, sizes, dates and samples of the numbers: nothing is read whole just to look something up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..engine.files.open import open_source
from ..engine.files.sharded import read_index
from ..engine.recipe import VERSION, digest_of, fingerprint
from ..engine.rounding_names import NEAREST
from ..engine.stream import memory_view
from .pristine import Request

SAMPLES = 8  # evenly spread over a tensor, both ends among them
SAMPLE_BYTES = 4096


class Unnamed(Exception):  # noqa: N818 - an answer: this patch is what no key can be made of
    """A patch whose effect cannot be told from its numbers."""


@dataclass(frozen=True)
class Key:
    """`kin` is all of a recipe but the strengths of its LoRAs, `exact` is all of it."""

    kin: str
    exact: str
    source: str
    patches: str

    @property
    def file_name(self) -> str:
        """The name of the file that holds the result."""
        return f"{self.kin}-{self.exact}.safetensors"


def source_fingerprint(path: str | Path) -> str:
    """Names, shapes and samples of a checkpoint, and the size and date of each of its files."""
    source = open_source(path)
    try:
        digest = hashlib.blake2b(fingerprint(source).encode(), digest_size=16)
    finally:
        source.close()
    for file in _files(Path(path)):
        found = file.stat()
        digest.update(f"{file.name}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """The files of a checkpoint: itself, what an index lists, or all that lie in a folder."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    shards = read_index(path).values() if path.suffix == ".json" else ()
    return [path, *(path.parent / name for name in sorted(set(shards)))]


def key_of(path: str | Path, request: Request, patches: Mapping[str, list[Any]]) -> Key:
    """The key of a fused and quantized file. Raises Unnamed for a patch that has no name.

    The backend is not in it: who multiplies does not change the file.
    """
    source = source_fingerprint(path)
    content, strengths = _Digest(), []
    for name in sorted(patches):
        content.add(name)
        for strength, *rest in patches[name]:
            strengths.append(float(strength))
            content.add(rest)
    asked = [VERSION, source, request.scheme, sorted(request.keep), content.hexdigest()]
    calibration = digest_of(request.inputs, request.input_scales)
    few = [request.max_bytes, request.candidates, request.rounding, calibration]
    asked += few if any((request.max_bytes, calibration, request.rounding != NEAREST)) else []
    kin = hashlib.blake2b(json.dumps(asked).encode(), digest_size=8).hexdigest()
    exact = hashlib.blake2b(json.dumps([kin, strengths]).encode(), digest_size=16).hexdigest()
    return Key(kin, exact, source, content.hexdigest())


class _Digest:
    """A hash that takes what the host's patches are made of."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def hexdigest(self) -> str:
        """The hash of all that was added."""
        return self._hash.hexdigest()

    def add(self, value: Any) -> None:
        """Add a tensor, a plain value, an adapter, a named function or a sequence of these."""
        if isinstance(value, torch.Tensor):
            self._add_tensor(value)
        elif value is None or isinstance(value, str | int | float | bool):
            self._hash.update(f"{type(value).__name__}\0{value!r}\0".encode())
        elif isinstance(value, Mapping):
            self.add(sorted(value.items()))
        elif isinstance(value, Iterable):
            self._hash.update(b"(")
            for item in value:
                self.add(item)
            self._hash.update(b")")
        elif hasattr(value, "weights"):  # an adapter of the host: its class says what they mean
            self.add(f"{type(value).__module__}.{type(value).__qualname__}")
            self.add(value.weights)
        else:
            self._add_function(value)

    def _add_function(self, value: Any) -> None:
        """A function by its name: only one that is the module's own is what its name says."""
        name = getattr(value, "__qualname__", "<")
        if not callable(value) or "<" in name or getattr(value, "__self__", None) is not None:
            raise Unnamed(f"a patch is made by a {type(value).__name__} of no fixed meaning")
        self.add(f"{value.__module__}.{name}")

    def _add_tensor(self, tensor: torch.Tensor) -> None:
        self.add(f"{tensor.dtype} {tuple(tensor.shape)}")
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise Unnamed(f"a patch holds a {type(tensor).__name__}")
        flat = tensor.detach().reshape(-1)
        size = max(1, SAMPLE_BYTES // tensor.element_size())
        last = max(0, flat.numel() - size)
        starts = sorted({last * i // (SAMPLES - 1) for i in range(SAMPLES)})
        for start in starts:
            sample = flat[start : start + size].cpu().contiguous()
            self._hash.update(memory_view(sample))
