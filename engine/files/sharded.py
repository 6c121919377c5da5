"""Several files that are one model in, one Source out: by an index, or by a list of files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from ..source import Source
from ..tensors import TensorSpec
from .magic import unreadable
from .mapping import no_tensor
from .safetensors import AGAIN
from .single import open_single

if TYPE_CHECKING:
    import torch

INDEX_LIMIT = 32 << 20  # bytes; 100,000 tensors take 12 MB


class ShardedSource:
    """A Source over opened files (see engine/source.py); of unequal metadata the first holds."""

    def __init__(self, path: Path, shards: Iterable[Source], kind: str = "sharded") -> None:
        self.path = path
        self._shards = tuple(shards)
        self.kind = kind
        self._owner: dict[str, Source] = {}
        tensors: dict[str, TensorSpec] = {}
        metadata: dict[str, str] = {}
        for shard in self._shards:
            twice = next((name for name in shard.tensors if name in self._owner), None)
            if twice is not None:
                raise Refused(
                    "shard-tensor-twice",
                    found=f"tensor {twice!r} in {self._owner[twice].path} and {shard.path}",
                    expected="each tensor in one file",
                    fix="remove the files that belong to another model or version",
                )
            self._owner.update(dict.fromkeys(shard.tensors, shard))
            tensors.update(shard.tensors)
            metadata = {**shard.metadata, **metadata}
        self.tensors: Mapping[str, TensorSpec] = tensors
        self.metadata: Mapping[str, str] = metadata

    def read_bytes(self, name: str, at: int = 0, size: int | None = None) -> bytes:
        """Raw bytes of a tensor, from `at` on."""
        return self._shard(name).read_bytes(name, at, size)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor over the mapped file that holds it."""
        return self._shard(name).tensor(name)

    def prefetch(self, name: str) -> None:
        """Ask the system to bring the tensor's pages in soon."""
        self._shard(name).prefetch(name)

    def close(self) -> None:
        """Close every file."""
        for shard in self._shards:
            shard.close()

    def _shard(self, name: str) -> Source:
        if name not in self._owner:
            raise no_tensor(name, self.path)
        return self._owner[name]


def open_shards(path: Path, files: Iterable[Path]) -> ShardedSource:
    """Open `files` as one model; `path` is what the user named."""
    shards: list[Source] = []
    try:
        for file in files:
            if not file.is_file():
                raise Refused(
                    "shard-missing",
                    found=f"no file {file.name} in {file.parent}",
                    expected=f"every file of {path.name}",
                    fix="download the missing file into the folder",
                )
            shards.append(open_single(file))
        return ShardedSource(path, shards)
    except BaseException:
        for shard in shards:
            shard.close()
        raise


def open_index(path: Path) -> ShardedSource:
    """Open the model that the index file at `path` lists; its folder is that of the shards."""
    weight_map = read_index(path)
    source = open_shards(path, [path.parent / file for file in dict.fromkeys(weight_map.values())])
    for name, file in weight_map.items():
        if name not in source.tensors:
            source.close()
            raise Refused(
                "shard-tensor-missing",
                found=f"no tensor {name!r} in {file}, where {path.name} has it",
                expected="the shards that this index was written for",
                fix="download the index and its shards again, from one place",
            )
    return source


def read_index(path: Path) -> dict[str, str]:
    """{tensor: file name} of the index at `path`; a name's text must stay in the folder.

    Links are not followed: a download cache may keep the shards elsewhere and link to them.
    """
    try:
        with path.open("rb") as handle:
            data = handle.read(INDEX_LIMIT + 1)
    except OSError as fault:
        raise unreadable(path, fault) from fault
    if len(data) > INDEX_LIMIT:
        raise _bad_index("index-too-large", f"more than {INDEX_LIMIT} bytes in {path.name}")
    try:
        content = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as fault:
        raise _bad_index("index-not-json", f"{path.name} that is no JSON ({fault})") from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise _bad_index("index-without-map", f"no weight_map in {path.name}")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not _stays_inside(file):
            raise _bad_index("index-path", f"{file!r} for tensor {name!r} in {path.name}")
    return weight_map


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name twice")
    return fields


def _stays_inside(file: str) -> bool:
    windows, posix = PureWindowsPath(file), PurePosixPath(file)
    outside = windows.drive or windows.root or posix.root or ".." in windows.parts
    return bool(windows.parts) and not outside and "\0" not in file and file.isprintable()


def _bad_index(kind: str, found: str) -> Refused:
    return Refused(
        kind,
        found=found,
        expected='{"weight_map": {tensor: file name inside the folder}}',
        fix="open a model's *.index.json or weights file, or " + AGAIN,
    )
