"""A MODEL that is about to be sampled in, the memory that it will take out, by what it is for.

On a CPU the weights are there already, in memory that was counted before or in the map of their
file; what comes on top is a step, what torch's libraries keep, weights with stock LoRAs in them,
and int8 weights that leave the map when they are packed. On a GPU everything is on the device for
this MODEL or for others, and is counted there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.utils
from comfy_kitchen.tensor import QuantizedTensor

from ..engine.advise.activations import held_on, net_of
from ..engine.advise.latents import latent_of
from ..engine.layer import Layer
from ..engine.model import Model, recognise
from ..engine.place.step import (
    CPU_RUN_BYTES,
    HEAD,
    LOOPS,
    PLAIN,
    PLAIN_TORCH,
    RESIDENT,
    Call,
    query_rows,
    step_bytes,
)
from ..kernels.backends.avx2 import LEAST
from ..kernels.registry import refusal
from . import devices, packed, vram
from .choosing import contents_of
from .compiled import is_compiled
from .ops import compute_dtype_of
from .weights import stored_bytes, stored_scheme

PREFIX = "diffusion_model."
# buffers and compiled code that torch's libraries make on a CPU at the first step, measured
LIBRARIES_BYTES = 32 << 20
# what is smaller stays in the C library's heap when it is freed: glibc's largest threshold
HEAP_BYTES = 32 << 20
Conds = Mapping[str, Sequence[Mapping[str, Any]]]


def patched_weights(patcher: Any) -> dict[str, int]:
    """The weights that the host is about to write anew, with LoRAs of other nodes in them."""
    if patcher.model.current_weight_patches_uuid == patcher.patches_uuid:
        return {}
    names = (key.removesuffix(".weight") for key in patcher.patches if key.endswith(".weight"))
    found = sum(stored_bytes(comfy.utils.get_attr(patcher.model, name)) for name in names)
    return {"patched weights": found} if found else {}


def packed_weights(patcher: Any) -> dict[str, int]:
    """The int8 weights in the map of their file that this sampling puts into memory, packed.

    Asked when the host has loaded the MODEL: what it wrote anew is in memory before. A compiler
    takes rows, which stay in the map.
    """
    found = 0 if is_compiled(patcher) else packed.mapped_bytes(patcher.model)
    return {"packed weights": found} if found else {}


def on_device(patcher: Any, cap_bytes: int | None) -> dict[str, int]:
    """What a loaded MODEL and others hold of a GPU, and the buffers that streamed layers come in.

    `cap_bytes`: so much of a MODEL under dynamic VRAM may be resident, None: all of it.
    """
    paged = patcher.is_dynamic()  # then layers arrive in pages, which no allocator counts
    weights = patcher.model_size() if paged else vram.resident_bytes(patcher)
    parts = {
        "weights": weights if cap_bytes is None else min(weights, cap_bytes),
        "staging": 0 if paged else vram.staging_bytes(patcher),
        "other models": vram.other_bytes(patcher),
    }
    return {name: size for name, size in parts.items() if size}


def step_bytes_of(
    patcher: Any, noise_shape: Sequence[int], conds: Conds, batched: bool
) -> int | None:
    """The fullest moment of a step; None for a latent that is no picture and no video.

    `batched`: both conditions are computed in one call.
    """
    if len(noise_shape) not in (4, 5):
        return None
    model = recognise(contents_of(patcher.model, PREFIX))
    net = net_of(model, _held(patcher))
    found = [cond for group in conds.values() for cond in group]
    patch = _patch(patcher, model)
    images = [_tokens(noise_shape[2:], patch) + _reference_tokens(cond, patch) for cond in found]
    texts = (cond["cross_attn"].shape[1] for cond in found if "cross_attn" in cond)
    call = Call(
        batch=noise_shape[0] * (2 if batched else 1),
        image=max(images, default=_tokens(noise_shape[2:], patch)),
        text=max(texts, default=0),
        itemsize=compute_dtype_of(patcher).itemsize,
    )
    if patcher.load_device.type == "cpu":
        call = replace(call, kept_bytes=HEAP_BYTES, run_bytes=CPU_RUN_BYTES)
    if _keeps_scores(patcher):
        free = comfy.model_management.get_free_memory(patcher.load_device)
        call = replace(call, rows=query_rows(free, call, net.hidden // HEAD))
    return step_bytes(net, call)


def has_loop(outputs: int, inputs: int) -> bool:
    """Whether this CPU multiplies int8 codes of a weight of this size as whole numbers."""
    return refusal("onednn") is None or (min(outputs, inputs) >= LEAST and refusal("avx2") is None)


def _held(patcher: Any) -> Any:
    """How the weight of a layer of this MODEL is held, by the engine's names."""
    modules = dict(patcher.model.diffusion_model.named_modules())
    computed, device = compute_dtype_of(patcher), devices.class_of(patcher.load_device)

    def held(layer: Layer) -> str:
        module = modules[layer.name]
        weight = module.weight
        if isinstance(weight, QuantizedTensor) or isinstance(weight.data, QuantizedTensor):
            scheme = stored_scheme(module) or "other"
            if device == "cpu" and not hasattr(weight.layout_cls, "linear"):
                return PLAIN_TORCH.get(scheme, scheme)
            looped = device == "cpu" and has_loop(*weight.shape)
            return LOOPS.get(scheme, scheme) if looped else held_on(scheme, device)
        return RESIDENT if weight.dtype == computed else PLAIN

    return held


def _patch(patcher: Any, model: Model) -> int:
    """Sides of the squares of a latent that are one token."""
    scale = getattr(patcher.model.latent_format, "spacial_downscale_ratio", 8)
    return max(1, latent_of(model).pixels // scale)


def _tokens(sides: Sequence[int], patch: int) -> int:
    """Tokens of a latent: (frames,) height, width."""
    *frames, height, width = sides
    return (frames[0] if frames else 1) * -(-height // patch) * -(-width // patch)


def _reference_tokens(cond: Mapping[str, Any], patch: int) -> int:
    """Pictures that are edited or referred to are tokens too."""
    pictures = cond.get("reference_latents") or ()
    return sum(_tokens(latent.shape[2:], patch) for latent in pictures)


def _keeps_scores(patcher: Any) -> bool:
    """Whether attention is ComfyUI's own for CPUs; those that may be chosen instead keep none."""
    attention = comfy.ldm.modules.attention
    chosen = "optimized_attention_override" in patcher.model_options["transformer_options"]
    return not chosen and attention.optimized_attention is attention.attention_sub_quad
