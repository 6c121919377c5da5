"""The schemes in, the choices of a node's drop-down and the checked choice of the user out."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..engine.scheme_names import schemes

FIRST = ("auto", "8-bit", "4-bit", "none")
TIP = (
    "auto picks what suits this device. 8-bit and 4-bit keep activations as they are: they save "
    "memory, not time. none leaves the weights in the source's dtype. The others are exact. Tensor "
    "cores take FP8 from sm_89 on, nvfp4 and mxfp8 from sm_100, w4a8 from sm_80, int8 and "
    "w4a4_convrot from sm_75. On a card int8 is slower than 16 bits with few tokens."
)


def scheme_names(before: tuple[str, ...] = ()) -> list[str]:
    """The drop-down: the easy choices, every scheme, then names that mean a backend too."""
    found = schemes()
    exact = [name for name in found if name not in FIRST]
    named = sorted(
        alias for scheme in found.values() for alias, backend in scheme.aliases.items() if backend
    )
    return [*before, *FIRST, *exact, *named]


def scheme_input(before: tuple[str, ...] = (), tooltip: str = TIP) -> Any:
    """The scheme drop-down; a choice brings its own settings with it where it has any."""
    options = [io.DynamicCombo.Option(name, []) for name in scheme_names(before)]
    return io.DynamicCombo.Input("scheme", options=options, tooltip=tooltip)


def chosen(scheme: Any) -> str:
    """The name that the user picked, from the drop-down's value."""
    return str(scheme["scheme"]) if isinstance(scheme, dict) else str(scheme)


def check(scheme: Any, before: tuple[str, ...] = ()) -> bool | str:
    """True, or what to say to the user. ComfyUI gives an option that it does not know as None."""
    if scheme is not None and chosen(scheme) in scheme_names(before):
        return True
    listed = ", ".join(scheme_names(before))
    return f"unknown-scheme: found none of the choices; expected one of {listed}; pick one of these"
