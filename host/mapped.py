"""A file in, tensors that lie in it out; the host's operations in, the same that keep them so out.

Without dynamic VRAM the host copies every loaded tensor into memory of its own, read or not. A
layer made here takes the tensor itself: its pages are read when a number of it is first needed, and
belong to the file. The maps are copy-on-write, so that who writes into a weight (the host's LoRA
hooks do) gets a page of its own and the file stays as it is.
"""

from __future__ import annotations

from typing import Any

import comfy.memory_management
import comfy.utils
import torch

from ..engine.files.open import open_source
from ..engine.tensors import torch_dtype

READ_BYTES = 64 << 10  # a smaller tensor is read: the system brings more than that for a fault

State = dict[str, torch.Tensor]


def mapped_state(path: str) -> tuple[State, dict[str, str] | None]:
    """(every tensor of a safetensors file, metadata); large ones are not read, small ones are.

    With dynamic VRAM on, or if the user wants no maps, it is the host that opens the file.
    """
    file = comfy.utils
    if comfy.memory_management.aimdo_enabled or getattr(file, "DISABLE_MMAP", False):
        return file.load_torch_file(path, return_metadata=True)  # type: ignore[no-any-return]
    source = open_source(path)
    try:
        if source.kind != "safetensors":
            return file.load_torch_file(path, return_metadata=True)  # type: ignore[no-any-return]
        state = {}
        for name, spec in source.tensors.items():
            if spec.dtype != "F4" and 0 < spec.size_bytes < READ_BYTES:
                data = bytearray(source.read_bytes(name))
                state[name] = torch.frombuffer(data, dtype=torch_dtype(spec.dtype)).view(spec.shape)
            else:
                state[name] = source.tensor(name)
        return state, dict(source.metadata)
    finally:
        source.close()


def mapped_operations(base: Any) -> Any:
    """`base`, the host's operations, with layers that keep what they are given where it fits.

    With dynamic VRAM on they stay the host's: it keeps maps itself, and those are read-only.
    """
    if comfy.memory_management.aimdo_enabled:
        return base
    layers = {
        name: type(name, (_Keeping, layer), {"__doc__": layer.__doc__})
        for name in dir(base)
        if isinstance(layer := getattr(base, name), type) and issubclass(layer, torch.nn.Module)
    }
    return type(f"Mapped_{base.__name__}", (base,), layers)


class _Keeping:
    """Before a layer of the host, in the order of classes: parameters are assigned, not copied."""

    def _load_from_state_dict(
        self, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *more: Any
    ) -> None:
        for name, parameter in self._parameters.items():  # type: ignore[attr-defined]
            found = state.get(prefix + name)
            # a quantized parameter is of another type: the host puts it together from several
            if found is not None and type(parameter) is torch.nn.Parameter:
                state[prefix + name] = fitted(found, parameter)
        super()._load_from_state_dict(  # type: ignore[misc]
            state, prefix, {**metadata, "assign_to_params_buffers": True}, *more
        )


def fitted(found: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`found` itself where it lies in memory as `like` does, else a copy of it that does.

    One of another shape is handed on: the host reports it.
    """
    if found.shape != like.shape:
        return found.to(like.device, like.dtype)
    same = found.dtype == like.dtype and found.device == like.device
    if same and found.stride() == like.stride() and not found.data_ptr() % found.itemsize:
        return found
    return torch.empty_like(like).copy_(found)
