"""GPTQ and AutoAWQ files (`qweight`, `qzeros`): recognised and refused."""

from __future__ import annotations

from ..source import Source
from ._foreign import foreign
from ._names import leaves


def signs(source: Source) -> bool:
    """Packed weights with packed zero points."""
    return {"qweight", "qzeros"} <= leaves(source)


FORMAT = foreign("gptq", "GPTQ or AWQ checkpoint", signs)
