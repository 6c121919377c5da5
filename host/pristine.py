"""A patcher in, a fresh copy of the model as its loader made it out: the only weights we read.

The module that a patcher holds is shared with every clone, and may carry another clone's LoRA just
now; a copy made by the loader's own factory carries nothing and belongs to nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_management
import comfy.sd
import torch

from ..engine.errors import Refused
from ..engine.files.open import open_source
from ..engine.insight import Insight
from ..engine.rounding_names import NEAREST
from ..engine.tensors import DTYPES, FLOATS, torch_dtype
from .mapped import mapped_state
from .ops import compute_dtype_of, plain_operations

# what the host keeps of a loader: (factory, arguments) or (factory, arguments, index of the result)
Init = tuple[Any, ...]

AS_STORED = "as stored"  # the scheme of a model that nobody has asked to quantize
READS_FILE = "fusequant_reads_file"  # the mark of a factory that reads one file as it is
WIDENED = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Request:
    """What the user asked for. `on_failure`: `full precision` or `refuse`.

    `cache`: whether the result is kept in a file, `auto`, `on` or `off`. `max_bytes`: of the
    weights; each layer then has one of `candidates`, which are exact, or stays as it is.
    `rounding`: see engine.rounding. By layer name, from a calibration: `inputs`, the mean square of
    each input channel, and `input_scales` of fp8 layers.
    """

    scheme: str = "auto"
    backend: str | None = None
    keep: tuple[str, ...] = ()
    on_failure: str = "full precision"
    cache: str = "auto"
    max_bytes: int | None = None
    candidates: tuple[str, ...] = ()
    rounding: str = NEAREST
    inputs: Mapping[str, torch.Tensor] | None = field(default=None, repr=False, compare=False)
    input_scales: Mapping[str, float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Recipe:
    """How a quantized model was made: the loader of its source, what was fused and the request.

    `compute_dtype` is what the model computes in; `patches` are the host's patches that were
    consumed, by parameter key. `assigned`: within a budget, the scheme of each layer by its name
    and why. `insight`: what rounding knows of the layers. `told`: lines about both for a report.
    """

    init: Init
    request: Request
    compute_dtype: torch.dtype
    patches: Mapping[str, list[Any]] = field(default_factory=dict)
    assigned: Mapping[str, tuple[str, str]] | None = None
    insight: Insight | None = field(default=None, repr=False, compare=False)
    told: tuple[str, ...] = field(default=(), repr=False, compare=False)


def calibrated(request: Request, before: Request) -> Request:
    """A request for a model that was calibrated as `before` says."""
    return replace(request, inputs=before.inputs, input_scales=before.input_scales)


def reads_file(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a factory whose first argument is the one file that it reads as it is."""
    setattr(factory, READS_FILE, True)
    return factory


def recipe_of(patcher: Any) -> Recipe | None:
    """The recipe of a model that we quantized, else None."""
    init = patcher.cached_patcher_init
    first = init[1][0] if init and init[1] else None
    return first if isinstance(first, Recipe) else None


def init_of(patcher: Any) -> Init:
    """The factory of a patcher's own loader, or a refusal that names the loaders to use."""
    if patcher.cached_patcher_init is None:
        raise Refused(
            "no-pristine-source",
            found="a MODEL or CLIP whose loader cannot make a fresh copy of it",
            expected="one that was loaded by ComfyUI's own loaders or by ours",
            fix="load the file with Load Diffusion Model, Load Checkpoint, Load CLIP, "
            "Load FP8 DiT or Quantized T5/CLIP Loader",
        )
    init: Init = patcher.cached_patcher_init
    return init


def build(init: Init, disable_dynamic: bool = False) -> Any:
    """A new patcher from a loader's factory."""
    more = {"disable_dynamic": True} if disable_dynamic else {}
    made = init[0](*init[1], **more)
    patcher = made[init[2]] if len(init) > 2 else made
    _unload(patcher)
    return patcher


def _unload(patcher: Any) -> None:
    """Text encoders are loaded as they are made: take a fresh one off the host's list again.

    Its patcher goes when another one takes the module over; the host would call that a leak.
    """
    management = comfy.model_management
    if any(loaded.model is patcher for loaded in management.current_loaded_models):
        management.unload_model_and_clones(
            patcher, unload_additional_models=False, all_devices=True
        )


def file_numbers(path: str) -> tuple[torch.dtype | None, bool]:
    """(the commonest dtype of a checkpoint by elements, None if that is no float; whether no number
    is stored in 8 bits or less), from its header.
    """
    try:
        source = open_source(path)
    except Refused:
        return None, False
    counts: dict[str, int] = {}
    for spec in source.tensors.values():
        counts[spec.dtype] = counts.get(spec.dtype, 0) + spec.elements
    source.close()
    largest = max(counts, key=lambda name: counts[name], default="F32")
    dtype = torch_dtype(largest) if largest in FLOATS else None
    return dtype, all(DTYPES[name][0] > 8 for name in counts)


def pristine(init: Init, compute_dtype: torch.dtype, disable_dynamic: bool = False) -> Any:
    """A fresh patcher whose weights stay in the map of the file where the host would widen them.

    Without a GPU the host loads a bfloat16 file as float32: twice the memory, and all of it read
    and written before anybody needs a number. The dtype that it computes in stays `compute_dtype`;
    where the two cannot be had together the host's way is taken.
    """
    made = _mapped(init, compute_dtype, disable_dynamic)
    if made is not None and compute_dtype_of(made) == compute_dtype:
        return made
    return build(init, disable_dynamic)


def _mapped(init: Init, compute_dtype: torch.dtype, disable_dynamic: bool) -> Any | None:
    """The host's model of a file, held as it lies there; None where that is left to the host."""
    if init[0] is not comfy.sd.load_diffusion_model or compute_dtype != torch.float32:
        return None
    path, options = (*init[1], {})[:2]
    if options.get("dtype") is not None or "custom_operations" in options:
        return None
    dtype, plain = file_numbers(path)
    if dtype not in WIDENED:
        return None
    options = {**options, "dtype": dtype}
    if not plain:  # the host's operations for quantized layers keep those in the map themselves
        return build((init[0], (path, options)), disable_dynamic)
    state, metadata = mapped_state(path)
    options["custom_operations"] = plain_operations(dtype, compute_dtype)
    made = comfy.sd.load_diffusion_model_state_dict(
        state, options, metadata=metadata, disable_dynamic=disable_dynamic
    )
    if made is not None:
        made.cached_patcher_init = init
    return made
