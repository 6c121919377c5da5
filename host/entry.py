"""A checkpoint, the host's patches and a scheme in, one fused and quantized file out; and back.

The file is made from the source layer by layer, never from a loaded model, so that the memory it
takes does not grow with the model. It holds the bits that quantizing in memory would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import torch

from ..engine.files.open import open_source
from ..engine.files.writer import Writer, size_of
from ..engine.fuse.lora import Fused
from ..engine.memory import CHUNK_ELEMENTS
from ..engine.model import recognise
from ..engine.outputs import Output, specs_of
from ..engine.pipeline import Prepared, lay_out, rounding_of
from ..engine.pipeline import Request as Conversion
from ..engine.place.making import Made, making_bytes
from ..engine.plan import Choice
from ..engine.read import read
from ..engine.source import Source
from ..engine.stream import Job, Stream
from ..engine.tensors import torch_dtype
from ..engine.workers import single_threaded_torch, worker_count
from .choosing import choices_for, chosen_for
from .mapped import mapped_state
from .ops import compute_dtype_of, quantized_operations
from .origin import PREFIX, summed_rows
from .pristine import Recipe
from .progress import Progress
from .weights import hold_narrow, is_linear

NARROW = ("BF16", "F16")
Patches = Mapping[str, list[Any]]


class NotCached(Exception):  # noqa: N818 - a reason, no fault: the model is made in memory then
    """Why a result cannot be kept in a file of the cache."""


@dataclass(frozen=True)
class Draft:
    """A file before it is written: the plan, the patches by layer key, the device of the sums."""

    prepared: Prepared
    patches: Patches
    device: torch.device
    dtype: str

    @property
    def consumed(self) -> list[str]:
        """The host's names of the parameters whose patches are in the file."""
        return [PREFIX + key for key in sorted(self.patches)]


@contextmanager
def drafted(patcher: Any, path: str, recipe: Recipe, device: torch.device) -> Iterator[Draft]:
    """The plan of a file for `recipe`, its source open inside the block. Raises NotCached."""
    source = open_source(path)
    try:
        yield _draft(patcher, source, recipe, device)
    finally:
        source.close()


def _draft(patcher: Any, source: Source, recipe: Recipe, device: torch.device) -> Draft:
    found = recognise(read(source))
    model = replace(found, others=(), prefix="")
    request = recipe.request
    choices = choices_for(model, request.scheme, request.keep, recipe.assigned)
    _check_names(patcher, choices, recipe)
    patches = _fused_patches(choices, recipe.patches)
    touched = Fused(dict.fromkeys(patches, ()))
    # a bias that a LoRA changes is not rounded to 16 bits here either
    choices = tuple(
        replace(c, dtype="F32") if c.layer.key in patches and c.scheme == "none" else c
        for c in choices
    )
    conversion = Conversion(
        request.scheme, request.keep, device=str(device), rounding=request.rounding,
        input_scales=request.input_scales,
    )  # fmt: skip
    prepared = lay_out(source, model, choices, conversion, {}, touched)
    return Draft(replace(prepared, insight=recipe.insight), patches, device, model.dtype)


def with_metadata(draft: Draft, metadata: Mapping[str, str]) -> Draft:
    """The draft with `metadata` in the file's header."""
    prepared = draft.prepared
    size_bytes = size_of(specs_of(prepared.outputs), metadata)
    plan = replace(prepared.plan, bytes=size_bytes)
    return replace(draft, prepared=replace(prepared, metadata=metadata, plan=plan))


def _check_names(patcher: Any, choices: tuple[Choice, ...], recipe: Recipe) -> None:
    """The file must name its layers as the host's model does: patches go by these names."""
    modules, request = dict(patcher.model.named_modules()), recipe.request
    chosen = chosen_for(patcher.model, request.scheme, request.keep, recipe.assigned)
    wanted = {
        name: choice.scheme
        for name, choice in chosen.choices.items()
        if choice.scheme != "none" and is_linear(modules.get(name))
    }
    found = {PREFIX + c.layer.name: c.scheme for c in choices if c.scheme != "none"}
    if wanted != found:
        some = sorted(wanted.keys() ^ found.keys())[:2]
        raise NotCached(f"ComfyUI names layers of this model unlike its file: {', '.join(some)}")


def _fused_patches(choices: tuple[Choice, ...], patches: Patches) -> dict[str, list[Any]]:
    """The patches of every layer that is quantized now, and of its bias, by layer key."""
    found = {}
    for choice in choices:
        layer = choice.layer
        weight = patches.get(PREFIX + layer.key)
        if choice.scheme == "none" or (weight is None and layer.scheme == choice.scheme):
            continue
        for key in (layer.key, f"{layer.name}.bias"):
            if PREFIX + key in patches:
                found[key] = patches[PREFIX + key]
    return found


def write(draft: Draft, target: Path, progress: Progress) -> None:
    """Write the file. Layers without a patch side by side, those with one after the other.

    The sum of a layer and its patches is made whole, as in the host: one at a time is in memory.
    """
    prepared = draft.prepared
    jobs = [_job(draft, output) for output in prepared.outputs]
    total = sum(job.source_bytes for job in jobs)
    progress(0, total)  # here and not in a thread: the bar belongs to the running node
    _make_room(draft)
    with Writer(target, specs_of(prepared.outputs), prepared.metadata) as writer:
        stream = Stream(writer, progress, total)
        with single_threaded_torch():
            plain = [job for job in jobs if job.fuse is None]
            stream.run(plain, worker_count(prepared.request.device))
        stream.run([job for job in jobs if job.fuse is not None], 1)


def peak_bytes(draft: Draft) -> int:
    """Private memory that writing takes: plain layers at once, then summed ones each whole."""
    outputs = draft.prepared.outputs
    fused = [o.choice.layer.elements for o in outputs if o.choice.layer.key in draft.patches]
    whole = making_bytes([Made(elements, 0, fused=True) for elements in fused], CHUNK_ELEMENTS)
    return max(draft.prepared.plan.peak_private_bytes, whole)


def _job(draft: Draft, output: Output) -> Job:
    layer = output.choice.layer
    found = draft.patches.get(layer.key)
    fuse = None if found is None else partial(summed_rows, layer, found, draft.device)
    prepared = draft.prepared
    rounding = rounding_of(output, prepared.insight, prepared.request)
    return Job(output, prepared.source, fuse, prepared.request.device, rounding)


def _make_room(draft: Draft) -> None:
    """Ask the host for room on the device: the largest layer in float32 and its copies."""
    if draft.device.type != "cpu":
        largest = max(output.choice.layer.elements for output in draft.prepared.outputs)
        comfy.model_management.free_memory(4 * 4 * largest, draft.device)


@dataclass(frozen=True)
class Loading:
    """How a file is loaded so that it computes like the model that it was made from."""

    path: str
    compute_dtype: torch.dtype
    held_dtype: torch.dtype
    backend: str | None


def held_dtype(patcher: Any, source_dtype: str) -> torch.dtype:
    """What unquantized weights are held in: as in `patcher`, or narrow where that is float32."""
    dtype: torch.dtype = patcher.model.get_dtype()
    if dtype == torch.float32 and source_dtype in NARROW:
        return torch_dtype(source_dtype)
    return dtype if dtype.itemsize > 1 else compute_dtype_of(patcher)


def load(loading: Loading, disable_dynamic: bool = False) -> Any:
    """A patcher of the file, its quantized weights still in the mapped file. Raises NotCached."""
    state, metadata = mapped_state(loading.path)
    device = comfy.model_management.get_torch_device()
    operations = quantized_operations(
        loading.compute_dtype, device, loading.backend, _marking(state),
        held_dtype=loading.held_dtype,
    )  # fmt: skip
    options = {"custom_operations": operations, "dtype": loading.held_dtype}
    patcher = comfy.sd.load_diffusion_model_state_dict(
        state, options, metadata=metadata, disable_dynamic=disable_dynamic
    )
    if patcher is None:
        raise NotCached("ComfyUI does not know the model in the cached file")
    if compute_dtype_of(patcher) != loading.compute_dtype:
        raise NotCached(
            f"the model computes in {loading.compute_dtype}, its cached file would in "
            f"{compute_dtype_of(patcher)}"
        )
    hold_narrow(patcher.model, loading.held_dtype)
    return patcher


def _marking(state: dict[str, Any]) -> Callable[[dict[str, Any], str], None]:
    """Take the format markers out of `state`; they are put back layer by layer as it is loaded.

    With them the host would take the dtype for granted that it gives to quantized files.
    """
    markers = {key: state.pop(key) for key in list(state) if key.endswith(".comfy_quant")}

    def put_back(layer: dict[str, Any], prefix: str) -> None:
        marker = markers.get(f"{prefix}comfy_quant")
        if marker is not None:
            layer[f"{prefix}comfy_quant"] = marker

    return put_back
