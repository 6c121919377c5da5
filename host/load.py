"""A checkpoint of any dialect in, a host model and what was done to it out.

What ComfyUI reads right is left to its own loader. Anything else is translated to its names and
format ids; with a scheme each layer is quantized while it is loaded, so that the model never
exists in full precision.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.sd
import comfy.utils
import torch

from ..engine import inspect
from ..engine.choose import choose
from ..engine.errors import Refused
from ..engine.files.open import open_source
from ..engine.model import UNKNOWN, Model, recognise
from ..engine.plan import Choice
from ..engine.read import formats, read
from ..engine.recipe import carried
from ..engine.repairable import mend_layer
from ..engine.rows import row_count, rows_of
from ..engine.source import Source
from ..engine.stored import held_by
from ..engine.tensors import torch_dtype
from . import devices, making, order
from .allocator import give_back
from .backends import KITCHEN, forced_backend
from .choosing import exact_scheme
from .model import keep_in_memory, quantizing_device
from .ops import compute_dtype_of, quantized_operations
from .pristine import AS_STORED, Init, Recipe, Request, build, pristine, reads_file
from .progress import host_progress
from .quantize import layer_tensors
from .report import Report
from .translate import State, Translation, translate

NARROW = ("BF16", "F16")


def load_diffusion_model(
    path: str | Path, scheme: str | None = None, backend: str | None = None,
    keep: Sequence[str] = (), on_failure: str = "full precision", rotated: int | None = None,
) -> tuple[Any, Report]:  # fmt: skip
    """(patcher, report). `scheme` None: as stored; else every chosen layer is quantized to it.

    `rotated`: int8 rows are rotated in groups of so many inputs although the file does not say so.
    """
    request = Request(scheme or AS_STORED, backend, tuple(keep), on_failure)
    report = Report(f"Load {Path(path).name}: {request.scheme}")
    with making.measured(report, quantizing_device(comfy.model_management.get_torch_device())):
        patcher = _loaded(str(path), request, report, rotated)
    return order.watched(making.noted(patcher, report)), report


def _loaded(path: str, request: Request, report: Report, rotated: int | None) -> Any:
    """The patcher by the way that the request and the file allow."""
    if request.scheme != AS_STORED:
        return _load_quantizing(path, request, report, rotated)
    report.predicted = making.mapped(comfy.model_management.get_torch_device())
    backend = forced_backend(request.backend, None, report)
    init = stored_init(path, backend, rotated)
    if init[0] is comfy.sd.load_diffusion_model:
        report.notes.append("read by ComfyUI's own loader, as stored")
        return _stock(init)
    return _load_stored(path, backend, report, rotated)


def _stock(init: Init) -> Any:
    """The host's own model of a file. On a CPU its weights stay in the map of the file: the host
    would copy them to float32 first, twice the memory and nearly all of the time.
    """
    if comfy.model_management.get_torch_device().type != "cpu":
        return build(init)
    patcher = pristine(init, torch.float32)
    patcher.cached_patcher_init = init
    return patcher


def stored_init(path: str, backend: str | None = None, rotated: int | None = None) -> Init:
    """The factory that loads a file as it is: the host's own where it gets every number right."""
    if rotated is not None:
        return (reload, (path, backend, rotated))
    source = open_source(path)
    try:
        if backend in (None, KITCHEN) and host_reads(source):
            return (comfy.sd.load_diffusion_model, (path, {}))
        return (reload, (path, backend))
    finally:
        source.close()


def host_reads(source: Source, device: torch.device | None = None) -> bool:
    """Whether the host's own loader opens a source with the right numbers, as fast as ours.

    `device` is where the model will compute, if not where the host computes all else.
    """
    found = inspect.report(source, numbers=False)
    place = device or comfy.model_management.get_torch_device()
    if not devices.host_computes(found.layers, place):
        return False
    if found.family == UNKNOWN:  # the host knows more families than we do
        return source.kind == "safetensors" and formats()[found.dialect].core_reads
    if devices.stored_backend(found.layers, place, None) is not None:
        return False
    return any(node.startswith("Load ") for node in found.loads_in)


@reads_file
def reload(
    path: str, backend: str | None = None, rotated: int | None = None, disable_dynamic: bool = False
) -> Any:
    """The factory of a translated model."""
    return _load_stored(path, backend, Report("again"), rotated, disable_dynamic)


def requantize(recipe: Recipe, disable_dynamic: bool = False) -> Any:
    """The factory of a model that was quantized while it was loaded."""
    path, *more = recipe.init[1]
    rotated = more[1] if recipe.init[0] is reload and len(more) > 1 else None
    return _load_quantizing(path, recipe.request, Report("again"), rotated, disable_dynamic)


def _load_stored(
    path: str, backend: str | None, report: Report, rotated: int | None = None,
    disable_dynamic: bool = False,
) -> Any:  # fmt: skip
    source, model = opened(path, report, rotated)
    device = comfy.model_management.get_torch_device()
    schemes = {mend_layer(layer).scheme for layer in model.layers}
    unholdable = devices.unholdable(schemes, device)
    if unholdable:
        report.warn(f"{', '.join(unholdable)} cannot be on {device.type}: dequantized on the CPU")
    backend = devices.told(schemes, device, backend, report)
    made = translate(model.layers, source, plain=bool(unholdable))
    patcher, _ = _build(source, model, made.state, backend, None, disable_dynamic)
    tell_translation(made, report)
    patcher.cached_patcher_init = (reload, (path, backend, rotated))
    return patcher


def _load_quantizing(
    path: str, request: Request, report: Report, rotated: int | None = None,
    disable_dynamic: bool = False,
) -> Any:  # fmt: skip
    """Load with each chosen layer quantized as the host comes to it."""
    started = time.perf_counter()
    source, model = opened(path, report, rotated)
    device = comfy.model_management.get_torch_device()
    scheme, backend = exact_scheme(request.scheme, device)
    backend = forced_backend(request.backend, backend, report)
    backend = devices.running(scheme, device, backend, report)
    request = replace(request, scheme=scheme, backend=backend)
    choices = {x.layer.name: x for x in choose(model, scheme, keep=request.keep)}
    for choice in choices.values():
        if choice.scheme == "none" and choice.layer.is_matrix:
            report.keep(choice.layer.name, choice.why)
    later = {x.layer.key for x in choices.values() if x.scheme not in ("none", held_by(x.layer))}
    made = translate(model.layers, source, later, plain=scheme == "none")
    chosen = {c.layer.name: c for c in choices.values() if c.layer.key in later}
    # the order is that of the host's model, which is not there yet: its last layers are small
    by_size = sorted(chosen.items(), key=lambda item: -item[1].layer.elements)
    report.predicted = making.predicted(dict(by_size), (), quantizing_device(device))
    run = Streaming(source, chosen, device, request, report)
    patcher, dtype = _build(source, model, made.state, request.backend, run, disable_dynamic)
    run.finish()
    tell_twice(run.choices, report)
    report.seconds = time.perf_counter() - started
    keep_in_memory(patcher)
    stored = stored_init(path, None, rotated)
    patcher.cached_patcher_init = (requantize, (Recipe(stored, request, dtype),))
    return patcher


class Streaming:
    """Quantizes each chosen layer when the host comes to load it; counts them in the report."""

    def __init__(
        self, source: Source, choices: Mapping[str, Choice], device: torch.device,
        request: Request, report: Report,
    ) -> None:  # fmt: skip
        self.choices, self._report, self._request = dict(choices), report, request
        self._source: Source | None = source
        self._device, self._progress = quantizing_device(device), host_progress()
        self._done: set[str] = set()

    def rewrite(self, state: State, prefix: str) -> None:
        """Put the quantized tensors of one layer in the place of its weight."""
        weight = state.get(f"{prefix}weight")
        choice = None if weight is None else self.choice_of(prefix.removesuffix("."), weight)
        if choice is None or weight is None or self._source is None:
            return
        name = choice.layer.name
        self._progress(len(self._done), len(self.choices))
        if weight.is_meta:
            weight = rows_of(choice.layer, self._source)(0, row_count(choice.layer))
        self._done.add(name)
        try:
            made = layer_tensors(name, choice.scheme, weight, self._device)
        except Refused as refused:
            if self._request.on_failure == "refuse":
                raise
            self._report.keep(name, refused.kind)
            self._report.warn(f"{name} stays in full precision: {refused}")
            state[f"{prefix}weight"] = weight.to(torch_dtype(choice.layer.dtype))
            return
        state |= {prefix + key: tensor for key, tensor in made.items()}
        self._report.schemes[choice.scheme] += 1
        self._report.bytes_before += choice.layer.elements * 2
        self._report.bytes_after += sum(tensor.nbytes for tensor in made.values())
        del weight
        give_back()

    def choice_of(self, name: str, weight: torch.Tensor) -> Choice | None:
        """The choice for the host's layer `name`, which is about to take `weight`."""
        return self.choices.get(name)

    def finish(self) -> None:
        """Let go of the source; name the layers that the host never asked for."""
        self._source = None
        self._progress(len(self.choices), len(self.choices))
        for name in sorted(set(self.choices) - self._done):
            self._report.keep(name, "ComfyUI's model has no such layer")


def opened(path: str, report: Report, rotated: int | None = None) -> tuple[Source, Model]:
    """The source and the model of a checkpoint; its dialect and its faults go into the report."""
    source = open_source(path)
    contents = read(source, rotated)
    model = recognise(contents)
    report.family = model.family.title
    report.notes.append(f"dialect: {formats()[contents.format].title}")
    if rotated is not None:
        report.notes.append(f"int8 rows taken as rotated in groups of {rotated}, as asked")
    for problem in contents.problems:
        where = f" in {problem.layer}" if problem.layer else ""
        report.warn(f"{problem.kind}{where}: found {problem.found}; read all the same")
    return source, model


def _build(
    source: Source, model: Model, state: State, backend: str | None, run: Streaming | None,
    disable_dynamic: bool,
) -> tuple[Any, torch.dtype]:  # fmt: skip
    """(patcher, compute dtype): the host's model, the state dict loaded through our operations."""
    device = comfy.model_management.get_torch_device()
    metadata = carried(source.metadata)  # the host takes settings of LTX and others from there
    options, dtype = _dtypes(model, state, metadata, device)
    operations = quantized_operations(
        dtype, device, backend, run.rewrite if run else None, held_dtype=options["dtype"]
    )
    patcher = comfy.sd.load_diffusion_model_state_dict(
        state, {**options, "custom_operations": operations}, metadata=metadata,
        disable_dynamic=disable_dynamic,
    )  # fmt: skip
    if patcher is None:
        raise _unknown(model)
    if compute_dtype_of(patcher) != dtype and device.type == "mps":
        patcher.set_model_compute_dtype(dtype)
    if compute_dtype_of(patcher) != dtype:
        raise Refused(
            "compute-dtype",
            found=f"a model that computes in {compute_dtype_of(patcher)}",
            expected=str(dtype),
            fix="report this with the ComfyUI version and its start options",
        )
    return patcher, dtype


def _unknown(model: Model) -> Refused:
    return Refused(
        "host-does-not-know-model",
        found=f"{model.family.title} with {len(model.layers)} parameters",
        expected="a diffusion model that this ComfyUI detects",
        fix="update ComfyUI, or use the loader node that this model came with",
    )


def _dtypes(
    model: Model, state: State, metadata: Mapping[str, str], device: torch.device
) -> tuple[dict[str, torch.dtype], torch.dtype]:
    """The options for the host's loader and the dtype that it will compute in.

    Where it would hold float32 copies of a 16-bit file (no GPU), the file's dtype is asked for.
    """
    management = comfy.model_management
    config = comfy.model_detection.model_config_from_unet(state, "", metadata=metadata)
    if config is None:
        raise _unknown(model)
    supported = list(config.supported_inference_dtypes)
    quantized = config.quant_config is not None
    dtype = management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(state),
        supported_dtypes=supported,
        weight_dtype=None if quantized else torch_dtype(model.dtype),
    )
    if dtype == torch.float32 and model.dtype in NARROW:
        dtype = torch_dtype(model.dtype)
    dtype = devices.compute_dtype(dtype, device)
    cast = management.unet_manual_cast(None if quantized else dtype, device, supported)
    return {"dtype": dtype}, devices.compute_dtype(cast or dtype, device)


def tell_translation(made: Translation, report: Report) -> None:
    """Say how many layers were translated and which were quantized again."""
    counted = ", ".join(f"{count} x {how}" for how, count in sorted(made.how.items()))
    report.notes.append(f"translated for ComfyUI, codes as stored: {counted}")
    if made.dequantized:
        size = f"{made.dequantized_bytes / 1e9:.2f} GB"
        report.warn(
            f"{len(made.dequantized)} layers became floating point, {size}: no format here holds "
            "their codes; ask for a scheme on load to keep them small"
        )
    if made.requantized:
        report.warn(
            f"{len(made.requantized)} layers were quantized again, because no format holds their "
            f"codes: {', '.join(made.requantized[:3])}"
        )


def tell_twice(choices: Mapping[str, Choice], report: Report) -> None:
    """Say where the source was quantized already."""
    twice = [choice for choice in choices.values() if choice.layer.scheme != "none"]
    if twice:
        report.warn(
            f"{len(twice)} layers are stored as {twice[0].layer.scheme}: quantizing them again "
            "rounds twice; a 16-bit source gives a better model"
        )
