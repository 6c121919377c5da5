"""A layer: one parameter by name, shape and dtype, and where its numbers lie in the source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """Rows of a layer as one run of stored tensors holds them.

    `tensors` maps a role (`weight`, `scale`, `input_scale`, `zeros`, ...) to a tensor name of the
    source. `rows` are the rows taken from there (None: all); a layer is the concatenation of its
    parts along dim 0. Plain numbers may be seen in another shape, `view`, of the same order; with
    `transposed` a stored (k, n) matrix is seen as (n, k).
    """

    scheme: str
    tensors: Mapping[str, str]
    settings: Mapping[str, object] = field(default_factory=dict)
    rows: tuple[int, int] | None = None
    view: tuple[int, ...] | None = None
    transposed: bool = False


@dataclass(frozen=True)
class Layer:
    """One parameter: `key` is its name in an unquantized checkpoint, e.g. `img_in.weight`.

    `shape` and `dtype` are logical: what the numbers mean once dequantized (`dtype` BF16, F16 or
    F32 for a quantized layer, the stored dtype for a plain one).
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """The module's name: the key without `.weight`."""
        return self.key.removesuffix(".weight")

    @property
    def scheme(self) -> str:
        """How the numbers are stored now; `none` for plain floating point."""
        return self.parts[0].scheme

    @property
    def is_whole(self) -> bool:
        """All rows of one stored weight, in their order."""
        return len(self.parts) == 1 and self.parts[0].rows is None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) == 2 and self.key.endswith(".weight")
