"""A host model in, a second tree of modules over the same numbers out: a place for new weights.

No number is copied. What the host has hung on the first tree while it was loaded (buffers of
dynamic VRAM, functions that add another clone's LoRA, injected forwards) is left behind.
"""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import comfy.utils
import torch
from comfy_kitchen.tensor import QuantizedTensor

# what the host hangs on a module or on the root while a model is loaded
LOADED = (
    "_v", "_v_signature", "_v_weight", "_v_bias", "_v_block", "_v_block_faulted", "_pins",
    "_pin_state", "_prefetch", "weight_lowvram_function", "bias_lowvram_function",
    "comfy_patched_weights", "comfy_force_cast_weights", "prev_comfy_cast_weights",
    "dynamic_vbars", "dynamic_pins", "dynamic_patchers",
)  # fmt: skip
OWN = ("_parameters", "_buffers", "_modules")
CONTAINERS = (list, tuple, set, dict, OrderedDict)
PLAIN = frozenset((bool, int, float, str, type(None), torch.dtype, torch.device))
# the state of a model that is not loaded
FRESH: dict[str, Any] = {
    "current_patcher": None, "current_weight_patches_uuid": None, "model_loaded_weight_memory": 0,
    "lowvram_patch_counter": 0, "model_lowvram": False, "model_offload_buffer_memory": 0,
}  # fmt: skip


def copied_tree(patcher: Any) -> torch.nn.Module:
    """A tree of new modules with the unpatched parameters of `patcher`'s model, not loaded."""
    with patcher.use_ejected():
        copying = _Copying(patcher)
        model = copying.module(patcher.model, "")
        unpatched = {
            key: copying.module(old, f"{key}.") if isinstance(old, torch.nn.Module) else old
            for key, old in patcher.object_patches_backup.items()
        }
        copying.finish()
        for key, value in unpatched.items():
            comfy.utils.set_attr(model, key, value)
    for name, value in FRESH.items():
        if hasattr(model, name):
            setattr(model, name, value)
    model.device = patcher.offload_device
    return model


def as_parameter(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as a parameter of its own over the same storage.

    torch's constructor would copy the scales of a quantized tensor, and refuses one from outside
    when inference mode is on; a mark is all that it would add.
    """
    if isinstance(tensor, QuantizedTensor):
        made = QuantizedTensor(tensor._qdata, tensor._layout_cls, tensor._params)
        made._is_param = True
        return made
    return torch.nn.Parameter(tensor.detach(), requires_grad=False)


class _Copying:
    """One copy: which module became which, and the values that unpatched parameters have."""

    def __init__(self, patcher: Any) -> None:
        self._made: dict[int, torch.nn.Module] = {}
        self._parameters: dict[int, torch.Tensor] = {}
        self._device = patcher.offload_device
        hooked = {key: found[0] for key, found in patcher.hook_backup.items()}
        before = {key: found.weight for key, found in patcher.backup.items()}
        self._values: Mapping[str, torch.Tensor] = {**hooked, **before}
        self._buffers: Mapping[str, torch.Tensor] = patcher.backup_buffers

    def module(self, module: torch.nn.Module, prefix: str) -> torch.nn.Module:
        """The new module of an old one, whose names begin with `prefix`."""
        if id(module) in self._made:
            return self._made[id(module)]
        new = type(module).__new__(type(module))
        self._made[id(module)] = new
        said = {name: value for name, value in vars(module).items() if name not in LOADED}
        if "prev_comfy_cast_weights" in vars(module):
            said["comfy_cast_weights"] = module.prev_comfy_cast_weights
        for name in ("weight_function", "bias_function"):
            if name in said:
                said[name] = []
        said["_parameters"] = {
            name: self._parameter(value, prefix + name)
            for name, value in module._parameters.items()
        }
        said["_buffers"] = {
            name: self._buffers.get(prefix + name, value) for name, value in module._buffers.items()
        }
        said["_modules"] = {
            name: None if inner is None else self.module(inner, f"{prefix}{name}.")
            for name, inner in module._modules.items()
        }
        new.__dict__.update(said)
        return new

    def finish(self) -> None:
        """Let what the new modules refer to beside their children be the new modules too."""
        for new in self._made.values():
            said = vars(new)
            for name, value in said.items():
                if type(value) not in PLAIN and name not in OWN:
                    said[name] = self.value(value)
            injected = said.get("forward")
            if isinstance(injected, types.MethodType) and injected.__self__ is not new:
                del said["forward"]

    def value(self, value: Any) -> Any:
        """A value with old modules replaced, in containers and methods too."""
        if isinstance(value, torch.nn.Module):
            return self._made.get(id(value), value)
        if isinstance(value, types.MethodType) and id(value.__self__) in self._made:
            return types.MethodType(value.__func__, self._made[id(value.__self__)])
        if type(value) in CONTAINERS and not value:
            return type(value)()
        if type(value) in (list, tuple, set):
            return type(value)(self.value(one) for one in value)
        if type(value) in (dict, OrderedDict):
            return type(value)((key, self.value(one)) for key, one in value.items())
        return value

    def _parameter(self, old: torch.Tensor | None, key: str) -> torch.Tensor | None:
        if old is None:
            return None
        if id(old) not in self._parameters:
            value = self._values.get(key, old)
            if value.device != self._device and value.device.type != "meta":
                value = value.to(self._device)
            self._parameters[id(old)] = as_parameter(value)
        return self._parameters[id(old)]
