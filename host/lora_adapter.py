"""An adapter that only the engine reads right in, one of ComfyUI's adapter objects out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.weight_adapter
import torch

from ..engine.fuse import adapters as kinds
from ..engine.fuse.adapter import Adapter, Operands, read_step, width
from ..engine.parts import discover
from ..engine.tensors import TensorSpec, dtype_name

# roles of core tensors: the host computes them for a kernel of two dimensions only
CORE_ROLES = ("mid", "hada_t1", "hada_t2", "lokr_t2")


def read_by_rows(
    kind: str, roles: Mapping[str, str], dimensions: Mapping[str, int], shape: tuple[int, ...]
) -> bool:
    """Whether the host would get other numbers than the file means, or none.

    PEFT's magnitude vector, core tensors of other than two-dimensional convolutions, and Kronecker
    products over video convolutions.
    """
    if "magnitude" in roles or (kind == "lokr" and len(shape) == 5):
        return True
    return any(dimensions.get(role, 4) != 4 for role in CORE_ROLES)


class RowsAdapter(comfy.weight_adapter.WeightAdapterBase):  # type: ignore[misc, name-defined]
    """`weights` = (kind, rsLoRA, roles, tensors): what the host moves and hands to a new one."""

    name = "fusequant"

    def __init__(self, loaded_keys: set[str], weights: tuple[Any, ...]) -> None:
        self.loaded_keys, self.weights = loaded_keys, weights

    @classmethod
    def make(cls, kind: str, tensors: Mapping[str, torch.Tensor], rslora: bool) -> RowsAdapter:
        """An adapter of the engine's `kind` from {role: tensor}."""
        return cls(set(), (kind, rslora, tuple(tensors), tuple(tensors.values())))

    def calculate_weight(
        self, weight: torch.Tensor, key: str, strength: float, strength_model: float,
        offset: Any, function: Any, intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> torch.Tensor:  # fmt: skip
        """`weight` (n, ...) with the adapter added in float32, in place."""
        kind, rslora, roles, tensors = self.weights
        held = HeldTensors(dict(zip(roles, tensors, strict=True)))
        names = {role: role for role in roles}
        operands = Operands(held, names, strength, key, rslora, str(weight.device))
        shape = tuple(weight.shape) or (1,)
        base = function(weight).to(torch.float32, copy=True).reshape(shape[0], width(shape))
        over = adapters()[kind].over(operands, lambda a, b: base[a:b].clone(), shape)
        step = read_step(width(shape))
        rows = [over(at, min(shape[0], at + step)) for at in range(0, shape[0], step)]
        # halves that are exchanged come back by exchanging them again
        weight.copy_(function(torch.cat(rows).reshape(weight.shape)))
        return weight


def adapters() -> Mapping[str, Adapter]:
    """Every adapter kind of the engine by name."""
    return discover(kinds.__name__, "ADAPTER")


class HeldTensors:
    """Tensors in memory as a source of the engine's kind."""

    path, kind = Path("patch"), "memory"

    def __init__(self, held: Mapping[str, torch.Tensor]) -> None:
        self._held = held
        self.metadata: Mapping[str, str] = {}
        self.tensors = {
            name: TensorSpec(name, dtype_name(tensor.dtype), tuple(tensor.shape))
            for name, tensor in held.items()
        }

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor itself."""
        return self._held[name]

    def read_bytes(self, name: str, at: int = 0, size: int | None = None) -> bytes:
        """Raw bytes of a tensor."""
        flat = self._held[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        stop = flat.numel() if size is None else at + size
        return bytes(flat[at:stop].tolist())

    def prefetch(self, name: str) -> None:
        """Nothing to do: it is in memory."""

    def close(self) -> None:
        """Nothing to let go of."""
