"""An adapter kind: which tensors it needs, which shapes fit a layer, how it changes rows.

One file in `adapters/` for each, ending in ADAPTER. Knows no torch at import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import Refused
from ..source import Source
from ..tensors import FLOATS, FP8
from .grammar import SCALED

if TYPE_CHECKING:
    import torch

    from ..rows import RowReader

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # role: stored shape
Alternatives = tuple[tuple[str, ...], ...]  # any one of these sets of roles

READ_STEP_BYTES = (
    16 << 20
)  # what is read at once where an adapter has to look at more rows than were asked for
READABLE = (*FLOATS, *FP8)
NUMBERS = (
    *FLOATS,
    "I64",
    "I32",
    "I16",
    "I8",
    "U8",
)  # alpha and reshape are single numbers of any kind


@dataclass(frozen=True)
class Misfit:
    """Why the shapes of an adapter do not fit a layer: the refusal's kind and what was expected."""

    kind: str
    expected: str
    fix: str = "this LoRA was made for another model or size: use the one for this model"


@dataclass(frozen=True)
class Adapter:
    """`needs`: for each part of the adapter the sets of roles that can give it.

    `takes`: the roles it reads besides.

    fits(shapes, shape) -> None, or the Misfit of stored shapes against the layer's `shape`.
    over(operands, reader, shape) -> RowReader with this adapter added; `reader` gives
        rows (n, width(shape)) of a layer of `shape`.
    Adapters of one layer in one file are applied by ascending `order`.
    """

    name: str
    needs: tuple[Alternatives, ...]
    fits: Callable[[Shapes, Shape], Misfit | None]
    over: Callable[[Operands, RowReader, Shape], RowReader]
    takes: tuple[str, ...] = ()
    order: int = 0

    @property
    def marks(self) -> frozenset[str]:
        """The roles by which a module is seen to have this kind of adapter."""
        return frozenset(role for part in self.needs for roles in part for role in roles)

    @property
    def reads(self) -> frozenset[str]:
        """Every role that this kind uses."""
        return self.marks | frozenset(self.takes)

    def missing(self, roles: Mapping[str, str]) -> str | None:
        """The roles that are needed and not there, or None."""
        for part in self.needs:
            if not any(all(role in roles for role in choice) for choice in part):
                return " or ".join(" + ".join(choice) for choice in part)
        return None

    def decomposition_misfit(self, shapes: Shapes, shape: Shape) -> Misfit | None:
        """Why a DoRA vector does not fit: it has one number for each row or channel."""
        counts = {1, shape[0], *shape[1:2]}
        for role, fitting in (("dora_scale", counts), ("magnitude", {shape[0]})):
            if role in shapes and math.prod(shapes[role]) not in fitting:
                return Misfit("lora-shape-mismatch", f"{role} ({shape[0]}, 1) for {shape}")
        return None


@dataclass(frozen=True)
class Operands:
    """The tensors of one adapter on one layer, read as float32 when asked for.

    `names` maps a role to a tensor name of `source`.
    """

    source: Source
    names: Mapping[str, str]
    strength: float
    layer: str
    rslora: bool = False
    device: str = "cpu"
    _scales: dict[str, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    def has(self, role: str) -> bool:
        """Whether the file gives this role."""
        return role in self.names

    def shape(self, role: str) -> Shape:
        """The stored shape of the role's tensor."""
        return self.source.tensors[self.names[role]].shape

    def load(self, role: str) -> torch.Tensor:
        """The whole tensor of a role, float32 on the device."""
        return self._float(role, self.source.tensor(self.names[role]))

    def rows(self, role: str, start: int, stop: int) -> torch.Tensor:
        """Rows of a large tensor, float32 on the device."""
        stored = self.source.tensor(self.names[role])
        return self._float(role, (stored if stored.dim() else stored.reshape(1))[start:stop], start)

    def number(self, role: str) -> float | None:
        """The single number of a role (alpha), or None where the file has none."""
        if role not in self.names:
            return None
        value = float(self.source.tensor(self.names[role]).float().reshape(-1)[0])
        if not math.isfinite(value):
            self._refuse_values(role)
        return value

    def scale(self, rank: int) -> float:
        """alpha / rank; alpha / sqrt(rank) with rsLoRA; a file without alpha means alpha = rank."""
        alpha = self.number("alpha")
        if alpha is None:
            alpha = float(rank)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def _float(self, role: str, stored: torch.Tensor, start: int = 0) -> torch.Tensor:
        import torch

        tensor = stored.to(device=self.device, dtype=torch.float32)
        if tensor.data_ptr() == stored.data_ptr():
            tensor = (
                tensor.clone()
            )  # an adapter may write into what it loads; the map is not ours to change
        scale_role = role + SCALED
        if scale_role in self.names:
            if scale_role not in self._scales:
                scale = self.source.tensor(self.names[scale_role])
                self._scales[scale_role] = scale.to(device=self.device, dtype=torch.float32)
            scale = self._scales[scale_role]
            if scale.numel() == 1:
                tensor *= scale.reshape(())
            else:
                part = scale.reshape(-1)[start : start + tensor.shape[0]]
                tensor *= part.reshape(-1, *[1] * (tensor.dim() - 1))
        if not bool(torch.isfinite(tensor).all()):
            self._refuse_values(role)
        return tensor

    def _refuse_values(self, role: str) -> None:
        raise Refused(
            "lora-not-finite",
            found=f"NaN or infinity in {self.names[role]} of {self.source.path.name}",
            expected="finite numbers",
            fix="its training diverged: use an earlier checkpoint of this LoRA",
            layer=self.layer,
        )


def width(shape: Shape) -> int:
    """Numbers in one row of a layer: the product of all dimensions but the first."""
    return math.prod(shape[1:])


def read_step(columns: int) -> int:
    """How many rows of so many float32 columns to read at once."""
    return max(1, READ_STEP_BYTES // (4 * max(1, columns)))
