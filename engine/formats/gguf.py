"""GGUF files: each tensor by its ggml type, numbers as they are and blocks through a codec."""

from __future__ import annotations

import json
import math
from collections import Counter
from importlib.util import find_spec

from ..errors import Refused
from ..format import Contents, Format
from ..ggml import BY_NAME, PACKAGE, SHAPE_MARK, TYPE_MARK, GgmlType
from ..layer import Layer, Part
from ..problem import Problem
from ..problem_kinds import tell
from ..source import Source
from ..tensors import TensorSpec
from ._layers import gathered
from ._names import is_gguf

ADAPTER = "adapter"  # general.type of a LoRA


def split(source: Source) -> Contents:
    """Every tensor as one layer under the file's own name; blocks are halves once dequantized."""
    if source.metadata.get("general.type") == ADAPTER:
        raise Refused(
            "gguf-adapter",
            found="a LoRA as GGUF",
            expected="the weights of a model",
            fix="get the LoRA as safetensors and pass it with --lora",
        )
    half = _half(source)
    problems: list[Problem] = []
    layers = []
    for name, spec in source.tensors.items():
        kind = BY_NAME[source.metadata[TYPE_MARK + name]]
        shape = _shape(source, spec, kind)
        layers.append(_layer(spec, kind, shape, half))
        if kind.dtype is None and not kind.decoded and find_spec(PACKAGE) is None:
            problems.append(tell("gguf-type", f"{kind.name} codes", name.removesuffix(".weight")))
    return Contents("gguf", tuple(layers), gathered(problems))


def _half(source: Source) -> str:
    """What codes mean: float16 where more tensors are that than bfloat16, else bfloat16."""
    counts = Counter(spec.dtype for spec in source.tensors.values())
    return "F16" if counts["F16"] > counts["BF16"] else "BF16"


def _shape(source: Source, spec: TensorSpec, kind: GgmlType) -> tuple[int, ...]:
    """The shape that the numbers mean: the stored one, or what the file says it was before."""
    *outer, last = spec.shape or (1,)
    stored = spec.shape if kind.dtype else (*outer, last // kind.size * kind.elements)
    told = source.metadata.get(SHAPE_MARK + spec.name)
    if told is None:
        return stored
    try:
        sides = json.loads(told)
    except (ValueError, RecursionError):
        sides = None
    whole = isinstance(sides, list) and all(type(side) is int and side >= 0 for side in sides)
    if not whole or math.prod(sides) != math.prod(stored):
        raise Refused(
            "gguf-shape",
            found=f"{SHAPE_MARK}{spec.name} {told[:60]} for {math.prod(stored)} numbers",
            expected="the shape of the tensor before it was flattened",
            fix="convert the model again with a current ComfyUI-GGUF",
        )
    return tuple(sides)


def _layer(spec: TensorSpec, kind: GgmlType, shape: tuple[int, ...], half: str) -> Layer:
    tensors = {"weight": spec.name}
    if kind.dtype:
        view = None if shape == spec.shape else shape
        return Layer(spec.name, shape, kind.dtype, (Part("none", tensors, view=view),))
    settings = {"columns": math.prod(shape[1:]), "type": kind.name}
    return Layer(spec.name, shape, half, (Part(kind.codec, tensors, settings, view=shape),))


FORMAT = Format("gguf", "GGUF (llama.cpp, ComfyUI-GGUF)", is_gguf, split)
