"""A MODEL that is about to be sampled on a CPU in, the private memory that it will take out.

The weights themselves are there already, in memory that was counted before or in the map of their
file. What comes on top is told part by part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.utils
import torch
from comfy_kitchen.tensor import QuantizedTensor

from ..engine.model import recognise
from ..engine.place.step import (
    HEAD,
    LIBRARIES_BYTES,
    Call,
    Matrix,
    layers_of,
    query_rows,
    step_bytes,
)
from .choosing import contents_of
from .ops import compute_dtype_of
from .weights import stored_bytes, stored_scheme

PREFIX = "diffusion_model."
Conds = Mapping[str, Sequence[Mapping[str, Any]]]


def predicted(
    patcher: Any, noise_shape: Sequence[int], conds: Conds, batched: bool, estimate: int
) -> dict[str, int]:
    """Bytes by what they are for. `batched`: both conditions are computed in one call.

    `estimate` is the host's own for a step; it counts where the family is not known here.
    """
    step = _step(patcher, noise_shape, conds, batched)
    parts = {"step": estimate if step is None else step, "libraries": LIBRARIES_BYTES}
    patched = sum(_patched_bytes(patcher))
    return parts | ({"patched weights": patched} if patched else {})


def _step(patcher: Any, noise_shape: Sequence[int], conds: Conds, batched: bool) -> int | None:
    family = recognise(contents_of(patcher.model, PREFIX)).family.name
    names = layers_of(family)
    matrices = dict(_matrices(patcher, names))
    if not names or names[0] not in matrices or len(noise_shape) < 4:
        return None
    found = [cond for group in conds.values() for cond in group]
    texts = (cond["cross_attn"].shape[1] for cond in found if "cross_attn" in cond)
    call = Call(
        batch=noise_shape[0] * (2 if batched else 1),
        image=_tokens(noise_shape[2:]) + max(map(_reference_tokens, found), default=0),
        text=max(texts, default=0),
        itemsize=compute_dtype_of(patcher).itemsize,
    )
    if _keeps_scores(patcher):
        free = comfy.model_management.get_free_memory(torch.device("cpu"))
        call = replace(call, rows=query_rows(free, call, matrices[names[0]].n // HEAD))
    return step_bytes(family, call, matrices)


def _matrices(patcher: Any, names: Sequence[str]) -> Iterator[tuple[str, Matrix]]:
    """The named layers that this model has, and how their weights are held."""
    modules = dict(patcher.model.diffusion_model.named_modules())
    computed = compute_dtype_of(patcher)
    for name in names:
        weight = getattr(modules.get(name), "weight", None)
        if weight is None:
            continue
        plain = "resident" if weight.dtype == computed else "none"
        quantized = isinstance(weight, QuantizedTensor) or isinstance(weight.data, QuantizedTensor)
        held = (stored_scheme(modules[name]) or "other") if quantized else plain
        yield name, Matrix(weight.shape[0], math.prod(weight.shape[1:]), held)


def _tokens(sides: Sequence[int]) -> int:
    """Patches of two by two in the frames of a latent."""
    *frames, height, width = sides
    return math.prod(frames) * math.ceil(height / 2) * math.ceil(width / 2)


def _reference_tokens(cond: Mapping[str, Any]) -> int:
    """Pictures that are edited or referred to are tokens too."""
    return sum(_tokens(latent.shape[2:]) for latent in cond.get("reference_latents") or ())


def _keeps_scores(patcher: Any) -> bool:
    """Whether attention is ComfyUI's own for CPUs; those that may be chosen instead keep none."""
    attention = comfy.ldm.modules.attention
    chosen = "optimized_attention_override" in patcher.model_options["transformer_options"]
    return not chosen and attention.optimized_attention is attention.attention_sub_quad


def _patched_bytes(patcher: Any) -> Iterator[int]:
    """The weights that the host is about to write anew, with LoRAs of other nodes in them."""
    if patcher.model.current_weight_patches_uuid == patcher.patches_uuid:
        return
    for key in patcher.patches:
        name, _, parameter = key.rpartition(".")
        module = comfy.utils.get_attr(patcher.model, name)
        if parameter == "weight":
            yield stored_bytes(module)
