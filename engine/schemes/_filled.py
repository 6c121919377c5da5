"""Codes filled up to whole blocks in, the real shape of their weight and its products out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import Refused

if TYPE_CHECKING:
    import torch

# in a layer's JSON, where codes are filled up: the shape that the weight has without that
ORIGINAL = "orig_shape"


def original(n: int, k: int, multiple: int) -> dict[str, object]:
    """What the JSON says of the shape: nothing where no side is filled up."""
    return {ORIGINAL: [n, k]} if n % multiple or k % multiple else {}


def real_shape(settings: Mapping[str, object], n: int, k: int) -> tuple[int, int]:
    """(outputs, inputs) of a layer whose stored codes stand for (n, k)."""
    found = settings.get(ORIGINAL, (n, k))
    if isinstance(found, (list, tuple)) and len(found) == 2:
        outputs, inputs = found
        if isinstance(outputs, int) and isinstance(inputs, int) and inputs <= k:
            return outputs, inputs
    raise Refused(
        "codes-shape",
        found=f"{ORIGINAL} {found!r} for codes of {[n, k]}",
        expected="two sides, none longer than the stored ones",
        fix="write the file again with the tool that made it",
    )


def filled_linear(
    run: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
    x: torch.Tensor,
    bias: torch.Tensor | None,
    stored: tuple[int, int],
    settings: Mapping[str, object],
) -> torch.Tensor:
    """run(x, bias) on inputs and outputs filled up to `stored`, cut to the real outputs."""
    from torch.nn import functional

    n, k = stored
    outputs, _ = real_shape(settings, n, k)
    if x.shape[-1] < k:
        x = functional.pad(x, (0, k - x.shape[-1]))
    if bias is not None and bias.shape[0] < n:
        bias = functional.pad(bias, (0, n - bias.shape[0]))
    return run(x, bias)[..., :outputs]
