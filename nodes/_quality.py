"""Nothing in, the inputs of nodes that spend time on a smaller error out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..engine.rounding_names import NEAREST, ROUNDINGS


def bytes_of(max_gb: float | None) -> int | None:
    """The bytes that an input says, None for no limit."""
    return int(max_gb * 1e9) if max_gb else None


def max_gb_input(what: str) -> Any:
    """A byte budget; 0 means that there is none."""
    return io.Float.Input(
        "max_gb",
        default=0.0,
        min=0.0,
        max=1000.0,
        step=0.1,
        optional=True,
        advanced=True,
        tooltip=f"At most so many GB (10^9 bytes) {what}; 0: no limit. Every scheme is then tried "
        "on every layer, and the bytes go where they keep the output nearest. With a scheme other "
        "than auto each layer has that one or stays as it is. Takes minutes for a large model.",
    )


def rounding_input() -> Any:
    """How weights are rounded."""
    return io.Combo.Input(
        "rounding",
        options=list(ROUNDINGS),
        default=NEAREST,
        optional=True,
        advanced=True,
        tooltip="nearest is fast. search makes the scales of 4-bit weights finer. learned lets "
        "later numbers take up the errors of earlier ones: the output moves 7 to 46 % less, and "
        "quantizing takes about a minute for each GB of the model on two CPU cores.",
    )
