"""What a scheme does to a layer, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoraLeft:
    """Of a LoRA's delta after quantizing: its norm over the norm before, and the cosine of both."""

    norm_ratio: float
    cosine: float
    energy: float  # of the delta over that of the weight


@dataclass(frozen=True)
class Weighed:
    """A scheme on a layer.

    `error` is the relative error of the layer's output. `moved` is what it adds to the squared
    relative error of the model's output, `damage` what is lost of LoRAs on the same scale; without
    sensitivities both are those of the layer's own output. `loras`: by file.
    """

    error: float
    moved: float
    damage: float = 0.0
    loras: tuple[tuple[str, LoraLeft], ...] = ()

    @property
    def cost(self) -> float:
        """What the budget is spent against."""
        return self.moved + self.damage
