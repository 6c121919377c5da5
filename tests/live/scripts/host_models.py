"""What the host scripts share: a tiny FLUX run once, differences, ComfyUI's objects."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from typing import Any

import torch


def output(patcher: Any) -> torch.Tensor:
    """One call of a tiny FLUX on fixed inputs."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([patcher])
    return call(patcher)


def call(patcher: Any) -> torch.Tensor:
    """The same of a model that is loaded already, which loading would take hooks off."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    x, context, pooled = noise(1, 16, 16, 16), noise(1, 8, 128), noise(1, 768)
    with torch.inference_mode():
        result = patcher.model.apply_model(
            x, torch.tensor([0.7]), c_crossattn=context, y=pooled, guidance=torch.tensor([4.0])
        )
    return result.float()


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative Frobenius distance."""
    return float((found - wanted).norm() / wanted.norm())


def state(patcher: Any) -> dict[str, torch.Tensor]:
    """Every stored tensor of the diffusion model."""
    return dict(patcher.model.diffusion_model.state_dict())


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """The same names with the same bits; numbers of one byte may go by another dtype."""
    return first.keys() == second.keys() and all(
        _kind(first[name].dtype) == _kind(second[name].dtype)
        and torch.equal(_bits(first[name]), _bits(second[name]))
        for name in first
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _kind(dtype: torch.dtype) -> torch.dtype:
    return torch.uint8 if dtype.itemsize == 1 else dtype


def weight(patcher: Any, layer: str) -> torch.Tensor:
    """The numbers of a layer in float32."""
    from fusequant.host.weights import dequantized

    module = patcher.model.diffusion_model.get_submodule(layer)
    return dequantized(module.weight).float()


def with_lora(patcher: Any, path: str, strength: float = 1.0) -> Any:
    """The patcher with a LoRA as ComfyUI's own loader adds it."""
    import comfy.sd
    import comfy.utils

    lora = comfy.utils.load_torch_file(path, safe_load=True)
    return comfy.sd.load_lora_for_models(patcher, None, lora, strength, 0.0)[0]


class Counted(logging.Handler):
    """Counts how often each layer was quantized."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.layers: Counter[str] = Counter()
        self._log = logging.getLogger("fusequant.host.quantize")

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line of the log."""
        if record.msg.startswith("quantized") and record.args:
            self.layers[str(record.args[0])] += 1

    def __enter__(self) -> Counted:
        self._log.addHandler(self)
        self._log.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        self._log.removeHandler(self)


def host_objects() -> dict[str, int]:
    """Every attribute of every loaded ComfyUI module, and of its classes, by identity."""
    found = {}
    names = ("comfy", "folder_paths", "execution", "nodes", "comfy_kitchen")
    for module_name, module in list(sys.modules.items()):
        if module is None or module_name.split(".")[0] not in names:
            continue
        for name, value in vars(module).items():
            if not name.startswith("__"):
                found[f"{module_name}.{name}"] = id(value)
            if isinstance(value, type) and value.__module__ == module_name:
                for inner, thing in vars(value).items():
                    if callable(thing):
                        found[f"{module_name}.{name}.{inner}"] = id(thing)
    return found
