"""A model and a scheme in, what becomes of each layer and why out. Reads names and shapes only."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from .errors import Refused
from .family import Family, Rule
from .layer import Layer
from .model import Model
from .plan import Choice
from .scheme import Scheme
from .scheme_names import resolve, schemes
from .tensors import DTYPES, FLOATS, SPELLINGS

# ComfyUI loads a module of at most this size in full and rounds it again; a 128 x 128 fp8 weight,
# whose codes are just as large, was seen to be treated so
SMALL_BYTES = 16 * 1024


@dataclass(frozen=True)
class _Kept:
    """A rule of the family with its pattern compiled."""

    pattern: re.Pattern[str]
    rule: Rule


def choose(
    model: Model, scheme: str, *, keep: Sequence[str] = (), dtype: str | None = None
) -> tuple[Choice, ...]:
    """(model, scheme) -> one Choice a layer, in the model's order.

    `keep`: glob patterns (`*`, `?`, `[abc]`) for names of layers that stay; one that matches
    nothing is refused. `dtype`: of what stays floating point (`bf16`, `fp16`, `fp32`); None
    leaves it as stored.
    """
    chosen = schemes()[resolve(scheme)[0]]
    wanted = dtype_of(dtype) if dtype else None
    _check_patterns(model, keep)
    rules = [
        _Kept(re.compile(rule.pattern), rule)
        for rule in model.family.keep
        if not rule.schemes or chosen.name in rule.schemes
    ]
    choices = []
    for layer in model.layers:
        stored = wanted if wanted and layer.dtype in FLOATS else layer.dtype
        why = _stays(layer, stored, chosen, model.family, rules, keep)
        choices.append(
            Choice(layer, "none", stored, why)
            if why
            else Choice(layer, chosen.name, stored, f"{model.family.title}: block linear")
        )
    return tuple(choices)


def dtype_of(spelled: str) -> str:
    """`bf16`, `float16`, `F32`, ... -> the safetensors name; refuses others."""
    name = SPELLINGS.get(spelled.lower(), spelled.upper())
    if name in FLOATS:
        return name
    raise Refused(
        "unknown-dtype",
        found=repr(spelled),
        expected=f"one of {', '.join(SPELLINGS)}",
        fix="pick one of these",
    )


def codes_bytes(layer: Layer, scheme: Scheme, dtype: str) -> int:
    """The size of the codes that a scheme stores for a matrix, without its scales."""
    piece = scheme.pieces(layer.shape[0], layer.shape[1], dtype)["weight"]
    return math.prod(piece.shape) * DTYPES[piece.dtype][0] // 8


def _stays(
    layer: Layer,
    dtype: str,
    scheme: Scheme,
    family: Family,
    rules: Sequence[_Kept],
    keep: Sequence[str],
) -> str | None:
    """Why a layer is not quantized; None if it is."""
    if scheme.name == "none":
        return "no quantization asked for"
    if not layer.is_matrix:
        return "not a matrix: bias, norm, convolution or table"
    if layer.dtype not in FLOATS:
        return f"not floating point: {layer.dtype}"
    for kept in rules:
        if kept.pattern.fullmatch(layer.name):
            return kept.rule.why
    for pattern in keep:
        if _matches(layer, pattern):
            return f"kept as asked: {pattern}"
    n, k = layer.shape
    if min(n, k) < family.smallest_side:
        return f"{n} x {k}: a side is below {family.smallest_side}"
    refusal = scheme.refuses(n, k)
    if refusal:
        return refusal
    size = codes_bytes(layer, scheme, dtype)
    if size <= SMALL_BYTES:
        return f"{size} bytes once quantized: ComfyUI rounds such a small layer again"
    return None


def _matches(layer: Layer, pattern: str) -> bool:
    return fnmatchcase(layer.name, pattern) or fnmatchcase(layer.key, pattern)


def _check_patterns(model: Model, keep: Sequence[str]) -> None:
    """Refuse a pattern that matches no layer: it is a misspelling, not a wish."""
    for pattern in keep:
        if any(_matches(layer, pattern) for layer in model.layers):
            continue
        names = [layer.name for layer in model.layers if layer.is_matrix]
        near = get_close_matches(pattern.strip("*"), names, n=3, cutoff=0.4) or names[:3]
        raise Refused(
            "keep-matches-nothing",
            found=f"the pattern {pattern}",
            expected=f"a name or pattern of a layer, such as {', '.join(near)}",
            fix="correct it, or put * around a part of a name",
        )
