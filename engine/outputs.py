"""Choices in, the tensors of the new file out: what each layer is stored as, before any is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .layer import Layer
from .plan import Choice
from .scheme import Piece
from .scheme_names import schemes as all_schemes
from .stored import held_by
from .tensors import TensorSpec

# settings of a stored layer that stay true when its codes are written again
_KEPT_SETTINGS = (
    "full_precision_matrix_mult", "convrot", "convrot_groupsize", "group_size", "linear_dtype",
    "orig_shape",
)  # fmt: skip


@dataclass(frozen=True)
class Output:
    """One layer of the new file: its tensors by role and the small ones whose bytes are known.

    `whole`: the layer of the model that LoRAs change, where this one is its rows from `first` on
    under another name; None: the choice's own layer.
    """

    choice: Choice
    tensors: Mapping[str, TensorSpec]
    known: Mapping[str, bytes]
    as_stored: bool  # the codes of the source are written as they are
    whole: Layer | None = None
    first: int = 0

    @property
    def changed(self) -> Layer:
        """The layer that LoRAs are matched to."""
        return self.whole or self.choice.layer


def quant_json(scheme: str, n: int, k: int, settings: Mapping[str, object]) -> bytes:
    """The bytes of a layer's `comfy_quant` tensor."""
    found = all_schemes()[scheme]
    kept = {name: settings[name] for name in _KEPT_SETTINGS if name in settings}
    facts = {"format": found.format_id, **found.config(n, k), **kept}
    return json.dumps(facts, separators=(", ", ": ")).encode()


def keeps_codes(choice: Choice, touched: bool) -> bool:
    """True when the codes of a layer are those of the chosen scheme and no LoRA changes them."""
    layer, scheme = choice.layer, choice.scheme
    if touched or scheme == "none" or held_by(layer) != scheme:
        return False
    pieces = all_schemes()[scheme].pieces
    n, k = layer.shape
    return pieces(n, k, choice.dtype) == pieces(n, k, layer.dtype)


def output_of(choice: Choice, touched: bool, prefix: str = "") -> Output:
    """What is written for one choice, its names behind `prefix`; `touched`: a LoRA changes it."""
    layer = choice.layer
    if choice.scheme == "none":
        spec = TensorSpec(prefix + layer.key, choice.dtype, layer.shape)
        return Output(choice, {"weight": spec}, {}, as_stored=False)
    n, k = layer.shape
    part = layer.parts[0]
    as_stored = keeps_codes(choice, touched)
    tensors = {
        role: TensorSpec(prefix + layer.name + piece.suffix, piece.dtype, piece.shape)
        for role, piece in _pieces(choice, as_stored).items()
    }
    own = as_stored and part.scheme in all_schemes()  # a codec's settings are its own
    for role, shape in {"input_scale": (), "pre_quant_scale": (k,)}.items():
        if as_stored and layer.is_whole and role in part.tensors:
            tensors[role] = TensorSpec(f"{prefix}{layer.name}.{role}", "F32", shape)
    conf = quant_json(choice.scheme, n, k, part.settings if own else {})
    tensors["comfy_quant"] = TensorSpec(f"{prefix}{layer.name}.comfy_quant", "U8", (len(conf),))
    return Output(choice, tensors, {"comfy_quant": conf}, as_stored)


def _pieces(choice: Choice, as_stored: bool) -> Mapping[str, Piece]:
    """What the chosen scheme stores; of a weight that lies in the file, as it lies there."""
    scheme, part, (n, k) = all_schemes()[choice.scheme], choice.layer.parts[0], choice.layer.shape
    if not as_stored or part.scheme != scheme.name or not choice.layer.is_whole:
        return scheme.pieces(n, k, choice.dtype)
    if scheme.stored_pieces is None:
        found = scheme.pieces(n, k, choice.dtype)
    else:
        found = scheme.stored_pieces(n, k, choice.dtype, part.settings)
    lacking = scheme.optional - set(part.tensors)
    return {role: piece for role, piece in found.items() if role not in lacking}


def specs_of(outputs: Iterable[Output]) -> list[TensorSpec]:
    """Every tensor of the new file."""
    return [spec for output in outputs for spec in output.tensors.values()]
