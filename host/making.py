"""Layers that are about to be quantized in; the memory that it takes, predicted and measured, out.

Both are told over what was held before, in the report of the node that makes a MODEL; the MODEL
carries them, so that VRAM Manager can show them beside those of sampling.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..engine.place.making import Made, made_elsewhere, making_bytes
from ..engine.plan import Choice
from ..engine.rows import all_schemes
from ..engine.tensors import TensorSpec
from . import vram
from .quantize import CHUNK_ELEMENTS
from .report import Report

KEY = "fusequant_made"
RAM = "RAM"


def predicted(
    choices: Mapping[str, Choice], patched: Collection[str], device: torch.device
) -> dict[str, int]:
    """{memory: bytes over what is held now}. `choices`: by layer; `patched`: keys with a LoRA."""
    made = [_made(choice, f"{name}.weight" in patched) for name, choice in choices.items()]
    chunk = CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS["cpu"])
    if device.type == "cpu":
        return {RAM: making_bytes(made, chunk)} if made else {}
    results, work = made_elsewhere(made, chunk)
    return {RAM: results, str(device): work} if made else {}


def mapped(device: torch.device) -> dict[str, int]:
    """A file opened as it is: on a CPU its weights stay in its map, which is not private."""
    return {RAM: 0} if device.type == "cpu" else {}


def _made(choice: Choice, fused: bool) -> Made:
    n, k = choice.layer.shape
    pieces = all_schemes()[choice.scheme].pieces(n, k, "BF16").values()
    stored = (TensorSpec(piece.suffix, piece.dtype, piece.shape) for piece in pieces)
    decoded = choice.layer.scheme != "none"
    return Made(n * k, sum(spec.size_bytes for spec in stored), fused, decoded)


@contextmanager
def measured(report: Report, device: torch.device) -> Iterator[None]:
    """Put the peaks of a block over what was held before it into the report."""
    with ExitStack() as stack:
        peaks = {RAM: stack.enter_context(vram.watched(torch.device("cpu")))}
        if device.type in vram.COUNTED:
            peaks[str(device)] = stack.enter_context(vram.watched(device))
        yield
    for name, peak in peaks.items():
        if peak.over_baseline_bytes is not None:
            report.measured[name] = peak.over_baseline_bytes


def noted(patcher: Any, report: Report) -> Any:
    """The MODEL with what making it took."""
    if report.predicted:
        patcher.set_attachments(KEY, report.memory_text())
    return patcher


def told(patcher: Any) -> str | None:
    """What making a MODEL took, None where no node of ours has made it."""
    found = patcher.get_attachment(KEY)
    return found if isinstance(found, str) else None
