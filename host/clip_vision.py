"""A vision encoder file in any dialect in, a host CLIP_VISION and what was done to it out.

ComfyUI's own loader builds the model; it knows no quantized layers there, so each one is put in
the place of an empty layer afterwards. The model never exists in full precision.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.utils
import torch

from ..engine.choose import choose
from ..engine.devices import check
from ..engine.errors import Refused
from ..engine.model import UNKNOWN, Model
from ..engine.plan import Choice
from ..engine.stored import held_by
from .choosing import exact_scheme
from .devices import class_of, unholdable
from .encoders import ByTensor, encoder_operations, encoder_translation
from .load import AS_STORED, host_reads, opened, tell_translation, tell_twice
from .model import keep_in_memory
from .pristine import Recipe, Request
from .report import Report
from .translate import State
from .weights import is_linear


def load_clip_vision(
    path: str | Path, scheme: str | None = None, on_failure: str = "full precision"
) -> tuple[Any, Report]:
    """(CLIP_VISION, report). `scheme` None: as stored; else each chosen layer is quantized."""
    request = Request(scheme or AS_STORED, on_failure=on_failure)
    report = Report(f"Load {Path(path).name}: {request.scheme}")
    return _load(str(path), request, report), report


def reload_vision(path: str, disable_dynamic: bool = False) -> Any:
    """The factory of an encoder as it is stored: its patcher."""
    return _load(path, Request(AS_STORED), Report("again"), disable_dynamic).patcher


def requantize_vision(recipe: Recipe, disable_dynamic: bool = False) -> Any:
    """The factory of an encoder that was quantized while it was loaded: its patcher."""
    path = recipe.init[1][0]
    return _load(path, recipe.request, Report("again"), disable_dynamic).patcher


def _load(path: str, request: Request, report: Report, disable_dynamic: bool = False) -> Any:
    started = time.perf_counter()
    source, model = opened(path, report)
    stored = request.scheme == AS_STORED
    if model.family.kind != "vision" and not (stored and model.family.name == UNKNOWN):
        raise Refused(
            "not-a-vision-encoder",
            found=f"{Path(path).name}, {model.family.title}",
            expected="a CLIP or SigLIP vision tower under the names of Hugging Face or Wan",
            fix="open it with the loader of its kind, or as stored",
        )
    reload = (reload_vision, (path,))
    device = comfy.model_management.text_encoder_device()
    if stored and source.kind == "safetensors" and host_reads(source, device):
        report.notes.append("read by ComfyUI's own loader, as stored")
        made = _known(comfy.clip_vision.load(path), model)
        made.patcher.cached_patcher_init = reload
        return made
    choices: dict[str, Choice] = {}
    plain = bool(unholdable({layer.scheme for layer in model.layers}, device))
    if not stored:
        scheme, _ = exact_scheme(request.scheme, device)
        check(scheme, class_of(device))
        request, plain = replace(request, scheme=scheme), scheme == "none"
        choices = _chosen(model, scheme, report)
    translated = encoder_translation(source, model, choices, plain)
    if stored:
        tell_translation(translated, report)
    run = ByTensor(source, translated.state, choices, request, report)
    made = _build(model, translated.state, run)
    run.finish()
    tell_twice(run.choices, report)
    report.seconds = time.perf_counter() - started
    keep_in_memory(made.patcher)
    recipe = Recipe(reload, request, torch.float32)
    made.patcher.cached_patcher_init = reload if stored else (requantize_vision, (recipe,))
    return made


def _known(made: Any, model: Model) -> Any:
    if made is None:
        raise Refused(
            "host-does-not-know-model",
            found=f"{model.family.title} with {len(model.layers)} parameters",
            expected="a vision encoder that this ComfyUI detects",
            fix="update ComfyUI, or use the loader node that this model came with",
        )
    return made


def _chosen(model: Model, scheme: str, report: Report) -> dict[str, Choice]:
    """Layers to be quantized now, by key; reasons for the others in the report."""
    found = {}
    for choice in choose(model, scheme):
        if choice.scheme == "none" and choice.layer.is_matrix:
            report.keep(choice.layer.name, choice.why)
        if choice.scheme not in ("none", held_by(choice.layer)):
            found[choice.layer.key] = choice
    return found


class Unfilled(torch.Tensor):
    """A shape without numbers: a parameter that is filled from it stays as it is.

    The host fills each parameter of a model that it made; of one that is replaced right after,
    not even the memory is touched.
    """

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Copying from it does nothing, all else is torch's."""
        if function is torch.Tensor.copy_:
            return args[0]
        return super().__torch_function__(function, types, args, kwargs or {})


def _build(model: Model, state: State, run: ByTensor) -> Any:
    """The host's model with every quantized layer put in."""
    own, plain = _parted(model, state, run)
    made = _known(comfy.clip_vision.load_clipvision_from_sd(plain), model)
    operations = encoder_operations(made.load_device, run.rewrite)
    modules = dict(made.model.named_modules())
    for name, tensors in own.items():
        module = modules.pop(name, None)
        left = f"{name} is no linear layer of ComfyUI's model"
        if module is not None and is_linear(module):
            linear, left = _filled(operations, module, tensors, made.patcher.offload_device)
            comfy.utils.set_attr(made.model, name, linear)
        if left:
            raise Refused(
                "host-layer",
                found=left,
                expected="codes of linear layers in a format that this ComfyUI reads",
                fix="load the unquantized file, or report this with the ComfyUI version",
                layer=name,
            )
    made.patcher.size = 0
    return made


def _parted(model: Model, state: State, run: ByTensor) -> tuple[dict[str, State], State]:
    """({layer: its tensors}, what the host is given: plain numbers, and shapes for the layers)."""
    names = {key.removesuffix(".comfy_quant") for key in state if key.endswith(".comfy_quant")}
    own: dict[str, State] = {name: {} for name in sorted(names | set(run.choices))}
    plain: State = {}
    for key, tensor in state.items():
        name, _, last = key.rpartition(".")
        if name in own:
            own[name][last] = tensor
        if name not in own or last == "bias":
            plain[key] = tensor
    for name in own:
        shape = model.shapes[f"{name}.weight"]
        plain[f"{name}.weight"] = torch.empty(shape, device="meta").as_subclass(Unfilled)
    return own, plain


def _filled(
    operations: Any, module: Any, tensors: Mapping[str, torch.Tensor], device: torch.device
) -> tuple[Any, str]:
    """(a Linear of ours in the place of `module`, what it did not take).

    The weight of `module` has no numbers yet, and on a host that loads late no device either.
    """
    dtype = module.weight.dtype if module.bias is None else module.bias.dtype
    linear = operations.Linear(
        module.in_features, module.out_features, bias=module.bias is not None,
        device=device, dtype=dtype,
    )  # fmt: skip
    comfy.model_management.archive_model_dtypes(linear)
    left = linear.load_state_dict(dict(tensors), strict=False)
    keys = (*left.missing_keys, *left.unexpected_keys)
    return linear, f"keys that ComfyUI's Linear did not take: {', '.join(keys)}" if keys else ""
