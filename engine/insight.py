"""What is known of the work that a layer does: sizes of its inputs and outputs, what they count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LayerInsight:
    """Means over tokens, float32 on the CPU; None where it is not known.

    `inputs` (k): mean square of each input channel. `outputs` (n): mean square of each output
    channel before the bias. `sensitivity` (n): the squared relative error of the model's output for
    an error of variance 1 on each output channel, of all tokens. `directions` (r, k): the rows u of
    the strongest part of the inputs' second moment, of which `inputs` is the diagonal:
    mean of x x.T is about diag(inputs - sum of u^2) + sum of u u.T.
    """

    inputs: torch.Tensor | None = None
    outputs: torch.Tensor | None = None
    sensitivity: torch.Tensor | None = None
    directions: torch.Tensor | None = None


@dataclass(frozen=True)
class Insight:
    """By layer name; `how` says in a line where it comes from."""

    layers: Mapping[str, LayerInsight]
    how: str


NOTHING = Insight({}, "every layer counts alike and its inputs are normal numbers")
