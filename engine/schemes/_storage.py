"""A scheme's stored tensors in, the checked scale or setting out; the pieces that schemes share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import Refused
from ..scheme import Piece

if TYPE_CHECKING:
    import torch

    from ..scheme import Tensors

_POWERS_OF_FOUR = (4, 16, 64, 256, 1024, 4096)


def weight_and_scale(weight_dtype: str, n: int, k: int, scale: tuple[int, ...]) -> dict[str, Piece]:
    """The two pieces of most schemes: the codes (n, k) and a float32 scale."""
    return {
        "weight": Piece(".weight", weight_dtype, (n, k)),
        "scale": Piece(".weight_scale", "F32", scale),
    }


def full_precision(settings: Mapping[str, object]) -> bool:
    """Whether the file asks for activations that stay as they are."""
    return bool(settings.get("full_precision_matrix_mult"))


def shape_of(weight: torch.Tensor) -> tuple[int, int]:
    """(rows, inputs) of a weight; torch sees what `ops.pack_int8` packed the other way round."""
    first, second = weight.shape
    return (second, first) if weight.is_mkldnn else (first, second)


def row_scale(tensors: Tensors) -> torch.Tensor:
    """The scale of a weight (rows, k) with 1 or `rows` numbers in any shape, or a refusal."""
    scale, (rows, _) = stored(tensors, "scale"), shape_of(tensors["weight"])
    if scale.numel() not in (1, rows):
        raise Refused(
            "scale-shape",
            found=f"a scale of shape {list(scale.shape)} for {rows} rows",
            expected=f"1 or {rows} numbers",
            fix="write the file again with the tool that made it",
        )
    return scale


def stored(tensors: Tensors, role: str) -> torch.Tensor:
    """The tensor of a role, or a refusal that names it."""
    if role not in tensors:
        raise Refused(
            "scale-missing",
            found=f"a quantized weight without its {role}",
            expected=f"a {role} tensor beside it",
            fix="write the file again with the tool that made it",
        )
    return tensors[role]


def check_shape(
    scheme: str, refuses: Callable[[int, int], str | None], weight: torch.Tensor
) -> None:
    """Refuse a weight whose shape the scheme does not take."""
    reason = refuses(weight.shape[0], weight.shape[1])
    if reason:
        raise Refused(
            "shape-not-taken",
            found=f"a weight of {list(weight.shape)} for {scheme}: {reason}",
            expected="a shape that the scheme takes",
            fix="leave this layer in its dtype or choose another scheme",
        )


def group_size(
    settings: Mapping[str, object], key: str, default: int, k: int, power_of_four: bool = False
) -> int:
    """The group size that the layer's JSON names, checked against its `k` inputs."""
    size = settings.get(key, default)
    allowed = _POWERS_OF_FOUR if power_of_four else range(1, k + 1)
    kind = "power of 4" if power_of_four else "whole number"
    if not isinstance(size, int) or size not in allowed or k % size:
        raise Refused(
            "group-size",
            found=f"{key} {size!r} for {k} inputs",
            expected=f"a {kind} that divides the inputs",
            fix="write the file again with the tool that made it",
        )
    return size
