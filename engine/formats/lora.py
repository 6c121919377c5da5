"""A LoRA file given as a checkpoint: recognised and refused."""

from __future__ import annotations

from ._foreign import foreign
from ._names import is_adapter

FORMAT = foreign(
    "lora", "a LoRA file, not a checkpoint", is_adapter, "this is a LoRA: pass it with --lora"
)
