"""torchao's safetensors files (`P._weight_qdata`): recognised and refused."""

from __future__ import annotations

from ..source import Source
from ._foreign import foreign


def signs(source: Source) -> bool:
    """Packed tensors spelled with the attribute's name."""
    return any(name.endswith(("_weight_qdata", "weight:qdata")) for name in source.tensors)


FORMAT = foreign("torchao", "torchao checkpoint", signs)
