"""The layers that are about to be quantized in memory in, the private memory of that out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..engine.place.making import Made, making_bytes
from ..engine.plan import Choice
from ..engine.rows import all_schemes
from ..engine.tensors import TensorSpec
from .quantize import CHUNK_ELEMENTS


def predicted(wanted: Mapping[str, tuple[Any, Choice]], patched: Collection[str]) -> int:
    """Bytes over what is held now. `wanted`: the host's Linears by name; `patched`: keys."""
    if not wanted:
        return 0
    made = (
        _made(module, choice.scheme, f"{name}.weight" in patched)
        for name, (module, choice) in wanted.items()
    )
    return making_bytes(made, CHUNK_ELEMENTS["cpu"])


def _made(module: Any, scheme: str, fused: bool) -> Made:
    n, k = module.weight.shape
    pieces = all_schemes()[scheme].pieces(n, k, "BF16").values()
    stored = (TensorSpec(piece.suffix, piece.dtype, piece.shape) for piece in pieces)
    return Made(n * k, sum(spec.size_bytes for spec in stored), fused)
