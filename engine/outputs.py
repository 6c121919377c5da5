"""Choices in, the tensors of the new file out: what each layer is stored as, before any is read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .layer import Layer
from .plan import Choice
from .rows import all_schemes
from .stored import home_of
from .tensors import TensorSpec

# settings of a stored layer that stay true when its codes are written again
_KEPT_SETTINGS = ("full_precision_matrix_mult", "convrot", "convrot_groupsize", "group_size")


@dataclass(frozen=True)
class Output:
    """One layer of the new file: its tensors by role and the small ones whose bytes are known."""

    choice: Choice
    tensors: Mapping[str, TensorSpec]
    known: Mapping[str, bytes]
    as_stored: bool  # the codes of the source are written as they are


def quant_json(scheme: str, n: int, k: int, settings: Mapping[str, object]) -> bytes:
    """The bytes of a layer's `comfy_quant` tensor."""
    found = all_schemes()[scheme]
    kept = {name: settings[name] for name in _KEPT_SETTINGS if name in settings}
    facts = {"format": found.format_id, **found.config(n, k), **kept}
    return json.dumps(facts, separators=(", ", ": ")).encode()


def keeps_codes(layer: Layer, scheme: str, touched: bool) -> bool:
    """True when a layer's codes are those of `scheme`, in one whole stored weight, and no LoRA
    changes them.
    """
    part = layer.parts[0]
    whole = len(layer.parts) == 1 and part.rows is None
    return whole and not touched and scheme != "none" and home_of(part) == scheme


def output_of(
    choice: Choice, touched: bool, prefix: str = "", input_scale: float | None = None
) -> Output:
    """What is written for one choice, its names behind `prefix`; `touched`: a LoRA changes it.

    `input_scale` of a calibration is for the schemes that take one; it comes before a stored one.
    """
    layer = choice.layer
    if choice.scheme == "none":
        spec = TensorSpec(prefix + layer.key, choice.dtype, layer.shape)
        return Output(choice, {"weight": spec}, {}, as_stored=False)
    n, k = layer.shape
    pieces = all_schemes()[choice.scheme].pieces(n, k, choice.dtype)
    tensors = {
        role: TensorSpec(prefix + layer.name + piece.suffix, piece.dtype, piece.shape)
        for role, piece in pieces.items()
    }
    as_stored = keeps_codes(layer, choice.scheme, touched)
    part, known = layer.parts[0], {}
    calibrated = input_scale is not None and all_schemes()[choice.scheme].static_inputs
    if calibrated or (as_stored and "input_scale" in part.tensors):
        tensors["input_scale"] = TensorSpec(f"{prefix}{layer.name}.input_scale", "F32", ())
    if calibrated:
        known["input_scale"] = struct.pack("<f", input_scale)
    conf = quant_json(choice.scheme, n, k, part.settings if as_stored else {})
    tensors["comfy_quant"] = TensorSpec(f"{prefix}{layer.name}.comfy_quant", "U8", (len(conf),))
    return Output(choice, tensors, known | {"comfy_quant": conf}, as_stored)


def specs_of(outputs: Iterable[Output]) -> list[TensorSpec]:
    """Every tensor of the new file."""
    return [spec for output in outputs for spec in output.tensors.values()]
