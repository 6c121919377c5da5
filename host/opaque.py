"""A scheme's linear and dequantize as torch operators, which a compiler does not look into.

Choosing a backend reads tables and sometimes numbers; a compiler that followed it would break its
graph there. The operators are made once a process, also when two copies of the pack are loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch

from ..engine.branch import linear_with_branch
from ..engine.rows import all_schemes
from ..kernels.registry import NoBackend, use_backend
from .backends import WHERE_IT_CAN

LINEAR, DEQUANTIZE = "fusequant::scheme_linear", "fusequant::scheme_dequantize"
BRANCHED = "fusequant::scheme_linear_branched"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_BESIDE = ("scale", "zeros", "input_scale", "scale_2", "channel", "codebook")
_TENSORS = ", ".join(("Tensor codes", "Tensor scale", *(f"Tensor? {role}" for role in _BESIDE[1:])))


def _tensors(codes: torch.Tensor, beside: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    named = zip(_BESIDE, beside, strict=True)
    return {"weight": codes, **{role: tensor for role, tensor in named if tensor is not None}}


def _on(backend: str, run: Callable[[], torch.Tensor]) -> torch.Tensor:
    """`run` on `sgl`, or the refusal; on `sgl?` where it can; else on what the registry chooses."""
    name = backend.removesuffix(WHERE_IT_CAN)
    if not name:
        return run()
    try:
        with use_backend(name):
            return run()
    except NoBackend:
        if not backend.endswith(WHERE_IT_CAN):
            raise
    return run()


def _linear(
    x: torch.Tensor, bias: torch.Tensor | None, codes: torch.Tensor, scale: torch.Tensor,
    zeros: torch.Tensor | None, input_scale: torch.Tensor | None, scale_2: torch.Tensor | None,
    channel: torch.Tensor | None, codebook: torch.Tensor | None,
    scheme: str, settings: str, backend: str,
) -> torch.Tensor:  # fmt: skip
    """(..., K) -> (..., N), a tensor of its own."""
    tensors = _tensors(codes, (scale, zeros, input_scale, scale_2, channel, codebook))
    run = partial(all_schemes()[scheme].linear, x, tensors, json.loads(settings), bias)
    return _on(backend, run).contiguous()


def _branched(
    x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, bias: torch.Tensor | None,
    codes: torch.Tensor, scale: torch.Tensor, zeros: torch.Tensor | None,
    input_scale: torch.Tensor | None, scale_2: torch.Tensor | None, channel: torch.Tensor | None,
    codebook: torch.Tensor | None, scheme: str, settings: str, backend: str,
) -> torch.Tensor:  # fmt: skip
    """(..., K), (R, K), (N, R) -> (..., N), a tensor of its own."""
    tensors = _tensors(codes, (scale, zeros, input_scale, scale_2, channel, codebook))
    made, said = all_schemes()[scheme], json.loads(settings)
    run = partial(linear_with_branch, made, x, tensors, said, bias, (down, up))
    return _on(backend, run).contiguous()


def _branched_shape(x: torch.Tensor, down: Any, up: torch.Tensor, *more: Any) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], up.shape[0]))


def _linear_shape(x: torch.Tensor, bias: Any, codes: torch.Tensor, *more: Any) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], _outputs(codes, more[-2])))


def _outputs(codes: torch.Tensor, settings: str) -> int:
    """The rows of a weight without what its codes are filled up with."""
    found = json.loads(settings).get("orig_shape")
    return int(found[0]) if found else codes.shape[0]


def _dequantize(
    codes: torch.Tensor, scale: torch.Tensor, zeros: torch.Tensor | None,
    input_scale: torch.Tensor | None, scale_2: torch.Tensor | None, channel: torch.Tensor | None,
    codebook: torch.Tensor | None, scheme: str, settings: str, inputs: int, dtype: int,
) -> torch.Tensor:  # fmt: skip
    """-> (N, K) in DTYPES[dtype], a tensor of its own."""
    tensors = _tensors(codes, (scale, zeros, None, scale_2, channel, codebook))
    weight = all_schemes()[scheme].dequantize(tensors, json.loads(settings))
    return weight.to(DTYPES[dtype]).contiguous()


def _dequantize_shape(codes: torch.Tensor, *more: Any) -> torch.Tensor:
    settings, inputs, dtype = more[-3:]
    return codes.new_empty((_outputs(codes, settings), inputs), dtype=DTYPES[dtype])


@cache
def _operators() -> tuple[Any, Any, Any]:
    """(linear, dequantize, branched), defined now or by the copy of the pack that came first."""
    facts = "str scheme, str settings"
    defined = (
        (LINEAR, _linear, _linear_shape,
         f"(Tensor x, Tensor? bias, {_TENSORS}, {facts}, str backend) -> Tensor"),
        (DEQUANTIZE, _dequantize, _dequantize_shape,
         f"({_TENSORS}, {facts}, int inputs, int dtype) -> Tensor"),
        (BRANCHED, _branched, _branched_shape,
         f"(Tensor x, Tensor down, Tensor up, Tensor? bias, {_TENSORS}, {facts}, str backend) "
         "-> Tensor"),
    )  # fmt: skip
    found = []
    for name, run, shape, schema in defined:
        space, short = name.split("::")
        if not hasattr(getattr(torch.ops, space), short):
            made = torch.library.custom_op(name, run, mutates_args=(), schema=schema)
            made.register_fake(shape)
        found.append(getattr(getattr(torch.ops, space), short))
    return found[0], found[1], found[2]


@cache
def spelled(settings: tuple[tuple[str, object], ...]) -> str:
    """Settings as the text that an operator takes."""
    return json.dumps(dict(settings))


def linear(
    scheme: str, x: torch.Tensor, tensors: Mapping[str, torch.Tensor],
    settings: tuple[tuple[str, object], ...], bias: torch.Tensor | None, backend: str | None,
    sides: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:  # fmt: skip
    """y = x W.T + bias as the scheme means it, on the backend asked for or the first that can.

    `sides` (R, K) and (N, R) of a low-rank branch: (x down.T) up.T is added.
    """
    beside = (tensors.get(role) for role in _BESIDE)
    more = (bias, tensors["weight"], *beside, scheme, spelled(settings), backend or "")
    linear, _, branched = _operators()
    result: torch.Tensor = linear(x, *more) if sides is None else branched(x, *sides, *more)
    return result


def dequantize(
    scheme: str, tensors: Mapping[str, torch.Tensor], settings: tuple[tuple[str, object], ...],
    inputs: int, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """(N, `inputs`) in `dtype`, computed in float32 and rounded once."""
    beside = (tensors.get(role) for role in _BESIDE)
    exact = dtype if dtype in DTYPES else torch.float32
    weight: torch.Tensor = _operators()[1](
        tensors["weight"], *beside, scheme, spelled(settings), inputs, DTYPES.index(exact)
    )
    return weight.to(dtype)
