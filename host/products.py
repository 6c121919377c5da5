"""A product with a quantized weight in, what the weight's own layout makes of it out.

torch asks for a linear layer in four ways: `linear` in inference mode, `t` and then `mm` or `addmm`
outside it. A layout of ours answers all of them with its one method `linear(x, weight, bias)`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from comfy_kitchen.tensor import (
    QuantizedLayout,
    QuantizedTensor,
    dequantize_args,
    register_layout_op,
)


def answer_products(layout: type[QuantizedLayout]) -> None:
    """Make comfy-kitchen ask `linear` of `layout` and of every layout under it."""
    for op, answer in _HANDLED.items():
        register_layout_op(getattr(torch.ops.aten, op).default, layout)(answer)


def _plain(value: Any) -> Any:
    return value.dequantize() if isinstance(value, QuantizedTensor) else value


def _multiply(x: Any, weight: Any, bias: Any, transposed: bool) -> torch.Tensor | None:
    """x W.T + bias when `weight` is of a layout of ours and lies the right way round, else None."""
    ours = isinstance(weight, QuantizedTensor) and hasattr(weight.layout_cls, "linear")
    if not ours or weight.params.transposed != transposed:
        return None
    result: torch.Tensor = weight.layout_cls.linear(_plain(x), weight, _plain(bias))
    return result


def _transpose(first: Any, args: Any, kwargs: Any) -> Any:
    """The same codes, seen the other way round."""
    weight, params = args[0], args[0].params
    turned = dataclasses.replace(
        params, orig_shape=tuple(reversed(params.orig_shape)), transposed=not params.transposed
    )
    return QuantizedTensor(weight._qdata, weight._layout_cls, turned)


def _linear(first: Any, args: Any, kwargs: Any) -> Any:
    """linear(x, W, bias)."""
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    done = _multiply(args[0], args[1], bias, transposed=False)
    return torch.nn.functional.linear(*dequantize_args(args)) if done is None else done


def _mm(first: Any, args: Any, kwargs: Any) -> Any:
    """mm(x, W.t())."""
    done = _multiply(args[0], args[1], None, transposed=True)
    return torch.mm(*dequantize_args(args)) if done is None else done


def _addmm(first: Any, args: Any, kwargs: Any) -> Any:
    """addmm(bias, x, W.t()) with both factors 1."""
    plain = kwargs.get("beta", 1) == 1 and kwargs.get("alpha", 1) == 1
    done = _multiply(args[1], args[2], args[0], transposed=True) if plain else None
    if done is None:
        return torch.addmm(*dequantize_args(args), **dequantize_args(kwargs))
    return done


_HANDLED = {"t": _transpose, "linear": _linear, "mm": _mm, "addmm": _addmm}
