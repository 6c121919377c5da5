"""optimum-quanto's files (`P.weight._data`, `P.weight._scale`): recognised and refused."""

from __future__ import annotations

from ..source import Source
from ._foreign import foreign


def signs(source: Source) -> bool:
    """Packed tensors spelled as attributes of the weight."""
    return any(
        name.endswith((".weight._data", ".weight._data._data", ".weight._scale"))
        for name in source.tensors
    )


FORMAT = foreign("quanto", "optimum-quanto checkpoint", signs)
