"""An opened checkpoint: names its tensors from the header and maps one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .tensors import TensorSpec

if TYPE_CHECKING:
    import torch


class Source(Protocol):
    """What every reader in `files/` hands out. Everything but `tensor` works without torch.

    `kind` is "safetensors", "sharded", "pth", "gguf" or, for a header without numbers, "spec".
    """

    @property
    def path(self) -> Path:
        """The file or folder."""
        ...

    @property
    def kind(self) -> str:
        """What sort of container it is."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """Every stored tensor by name."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """The header's own words."""
        ...

    def read_bytes(self, name: str, at: int = 0, size: int | None = None) -> bytes:
        """Raw bytes of a tensor: a small one whole (markers, scalars), a big one sampled."""
        ...

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor as a read-only view of the mapped file, in its stored dtype; no copy."""
        ...

    def prefetch(self, name: str) -> None:
        """Ask the system to bring the tensor's pages in soon; returns at once."""
        ...

    def close(self) -> None:
        """Let go of files and maps; tensors handed out must be gone by then."""
        ...
