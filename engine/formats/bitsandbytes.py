"""bitsandbytes files, int8 (`SCB`) or nf4/fp4 (`absmax`, `quant_state`): recognised and refused."""

from __future__ import annotations

from ..source import Source
from ._foreign import foreign


def signs(source: Source) -> bool:
    """State tensors beside the weight."""
    return any(
        name.endswith((".SCB", ".weight_format", ".weight.absmax", ".weight.quant_map"))
        or ".quant_state.bitsandbytes__" in name
        for name in source.tensors
    )


FORMAT = foreign("bitsandbytes", "bitsandbytes checkpoint", signs)
