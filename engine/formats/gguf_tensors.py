"""GGUF blocks in a safetensors container: recognised and refused."""

from __future__ import annotations

from ..source import Source
from ._foreign import foreign


def signs(source: Source) -> bool:
    """Byte matrices in a file whose metadata or names speak of GGUF."""
    named = any(
        "gguf" in key.lower() or "gguf" in value.lower()[:200] or key.startswith("general.")
        for key, value in source.metadata.items()
    ) or any(name.endswith((".ggml_type", ".gguf_type")) for name in source.tensors)
    return named and any(
        spec.dtype in ("U8", "I8") and len(spec.shape) == 2 for spec in source.tensors.values()
    )


FORMAT = foreign(
    "gguf_tensors",
    "GGUF blocks in a safetensors file",
    signs,
    "open the .gguf file with ComfyUI-GGUF, or quantize the unquantized checkpoint",
)
