"""A MODEL or CLIP, a request and a plan in; the same quantized as both together ask for it out."""

from __future__ import annotations

from typing import Any

from ..engine.planned import quantizing
from .cached import quantize_clip, quantize_model
from .pristine import Request
from .report import Report


def quantize(target: Any, request: Request, plan: object = None) -> tuple[Any, Report]:
    """(new MODEL or CLIP, report); what the user left open is taken from the plan, and told."""
    text = hasattr(target, "cond_stage_model")
    request, taken = quantizing(request, plan, text)
    made, report = (quantize_clip if text else quantize_model)(target, request)
    if taken:
        report.notes.insert(0, f"from the plan: {', '.join(_told(request, taken))}")
    return made, report


def _told(request: Request, taken: list[str]) -> list[str]:
    """Each field that came from the plan, for a reader."""
    values = {name: getattr(request, name) for name in taken}
    return [
        f"{name} {' '.join(value) if isinstance(value, tuple) else value}"
        for name, value in values.items()
    ]
