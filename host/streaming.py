"""A recipe in, the model fused and quantized layer by layer while the host loads its file out.

The full-precision model never exists: a layer's weight is read from the mapped file, summed with
its patches in float32, quantized and let go of before the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.sd
import torch

from ..engine.errors import Refused
from .allocator import give_back
from .budget import tensors_of
from .ops import compute_dtype_of, quantized_operations
from .pristine import Recipe, build, file_numbers
from .progress import host_progress
from .report import Report
from .weights import hold_narrow, patched

PREFIX = "diffusion_model."


def streams(recipe: Recipe) -> bool:
    """Whether a model is made by the host's own loader from an unquantized file, read as it is."""
    factory, (path, *more), *index = recipe.init
    if factory is not comfy.sd.load_diffusion_model or any(more) or index:
        return False
    return file_numbers(path)[1]


def quantize_while_loading(
    patcher: Any, recipe: Recipe, schemes: Mapping[str, str], device: torch.device, report: Report
) -> tuple[Any, set[str]] | None:
    """(fresh patcher, patch keys fused); None where it would not compute in the recipe's dtype.

    `schemes` are those of the layers by the host's names; sums are made on `device`. Weights that
    stay are held as in `patcher`, in the file's 16 bits where that is float32.
    """
    run = _Fusing(recipe, schemes, device, report)
    dtype, path = recipe.compute_dtype, recipe.init[1][0]
    held = patcher.model.get_dtype()
    if held == torch.float32:
        held = file_numbers(path)[0] or held
    report.baseline = str(held).removeprefix("torch.")
    operations = quantized_operations(
        dtype, patcher.load_device, recipe.request.backend, run.rewrite, held_dtype=held
    )
    own = build((recipe.init[0], (path, {"custom_operations": operations, "dtype": held})))
    if compute_dtype_of(own) != dtype:
        return None
    hold_narrow(own.model, held)
    own.size = 0
    run.finish()
    return own, run.consumed


class _Fusing:
    """Puts a quantized layer in the place of its weight just before the host reads it."""

    def __init__(
        self, recipe: Recipe, schemes: Mapping[str, str], device: torch.device, report: Report
    ) -> None:
        self._recipe, self._schemes, self._device, self._report = recipe, schemes, device, report
        self._progress, self._done = host_progress(), 0
        self.consumed: set[str] = set()

    def rewrite(self, state: dict[str, Any], prefix: str) -> None:
        """Fuse and quantize the layer at `prefix`, if it is one of those asked for."""
        name = PREFIX + prefix.removesuffix(".")
        scheme, weight = self._schemes.get(name), state.get(f"{prefix}weight")
        if scheme is None or weight is None:
            return
        self._progress(self._done, len(self._schemes))
        self._done += 1
        try:
            made = self._made(name, scheme, weight, state.get(f"{prefix}bias"))
        except Refused as refused:
            if self._recipe.request.on_failure == "refuse":
                raise
            self._report.keep(name, f"{refused.kind}: {refused}")
            self._report.warn(f"{name} stays in full precision: {refused}")
            return
        self._report.bytes_before += weight.nbytes
        self._report.bytes_after += sum(t.nbytes for key, t in made.items() if key != "bias")
        state |= {prefix + key: tensor for key, tensor in made.items()}
        give_back()

    def _made(
        self, name: str, scheme: str, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        keys = {key for key in (f"{name}.weight", f"{name}.bias") if key in self._recipe.patches}
        fused = self._sum(weight, f"{name}.weight")
        made = tensors_of(self._recipe, name, scheme, fused, self._device)
        made = {key: tensor.to(weight.device) for key, tensor in made.items()}
        if bias is not None:
            summed = self._sum(bias, f"{name}.bias")
            made["bias"] = summed.to(bias.device, self._recipe.compute_dtype)
        self._report.schemes[scheme] += 1
        self._report.fused += bool(keys)
        self.consumed |= keys
        return made

    def _sum(self, tensor: torch.Tensor, key: str) -> torch.Tensor:
        return patched(tensor, self._recipe.patches.get(key), key, self._device)

    def finish(self) -> None:
        """The bar to its end."""
        self._progress(len(self._schemes), len(self._schemes))
