"""Adapters on the host's parameters in, the host's own patches out.

ComfyUI's own adapters are made wherever they mean the same numbers, so that everything of its own
that looks at patches keeps working; where only the engine reads a file right the adapter is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.lora
import torch

from ..engine.errors import Refused
from ..engine.fuse.adapter import Operands
from ..engine.fuse.grammar import SCALED
from ..engine.fuse.lora import Change
from .lora_adapter import RowsAdapter, read_by_rows
from .lora_match import Lora, Matched, Placed
from .report import Report

ATTACHMENT = "fusequant_loras"  # of a patcher: the LoRAs asked for, for reports and saved recipes
UNMATCHED_SHOWN = 20

# role in the engine's grammar: how ComfyUI spells it after a module's name
HOST_ENDS = {
    "up": ".lora_up.weight", "down": ".lora_down.weight", "mid": ".lora_mid.weight",
    "a1": ".a1.weight", "a2": ".a2.weight", "b1": ".b1.weight", "b2": ".b2.weight",
    "set": ".set_weight",
}  # fmt: skip
# kind: the first of these roles that is there has as many rows as alpha is divided by
RANKS = {
    "lora": ("down",),
    "loha": ("hada_w1_b",),
    "lokr": ("lokr_w2_b", "lokr_w1_b"),
}


@dataclass(frozen=True)
class LoraUse:
    """One LoRA that a model has in it, as it was asked for, and how many modules it matched."""

    file: str
    strength: float
    rslora: bool
    matched: int


def add_loras(patcher: Any, matched: Matched, only: Sequence[Placed] | None = None) -> None:
    """Add adapters to the patches of a patcher that is ours, in the order of the files.

    The host looks through the whole model for every call: a call takes as many as it can.
    """
    together: dict[Any, Any] = {}
    strength = 0.0
    for placed in matched.placed if only is None else only:
        if together and (placed.spot in together or placed.strength != strength):
            patcher.add_patches(together, strength)
            together = {}
        strength = placed.strength
        together[placed.spot] = host_value(placed)
    if together:
        patcher.add_patches(together, strength)


def host_value(placed: Placed) -> Any:
    """The adapter as the host holds it: one of its own kinds, else ours with the same methods."""
    change = placed.change
    stabilised = change.file.rslora and change.kind in ("glora", *RANKS)
    ours = read_by_rows(change.kind, change.names, _dimensions(change), placed.shape)
    if ours or (stabilised and change.kind not in RANKS):
        tensors = {role: tensor_of(change, role) for role in change.names if SCALED not in role}
        return RowsAdapter.make(change.kind, tensors, change.file.rslora)
    spelled = {
        "m" + HOST_ENDS.get(role, f".{role}"): tensor_of(change, role)
        for role in change.names
        if SCALED not in role
    }
    if stabilised:
        spelled |= _rank_stabilised(change)
    loaded = comfy.lora.load_lora(spelled, {"m": placed.key}, log_missing=False)
    if placed.key not in loaded:
        raise Refused(
            "host-adapter",
            found=f"a {change.kind} adapter that this ComfyUI does not take",
            expected="one of its adapter kinds",
            fix="update ComfyUI, or fuse the LoRA with the convert command",
            layer=placed.key,
        )
    return loaded[placed.key]


def tensor_of(change: Change, role: str) -> torch.Tensor:
    """One tensor of an adapter as it is stored; float32 where the file stores it in 8 bits."""
    source, name = change.file.source, change.names[role]
    if source.tensors[name].dtype.startswith("F8"):
        return Operands(source, change.names, 1.0, change.target.key).load(role)
    return source.tensor(name)


def add_report(report: Report, matched: Matched) -> None:
    """Tell what matched and, by name, what did not."""
    for lora in matched.reports:
        unmatched = len(lora.unmatched)
        end = f", {unmatched} not" if unmatched else ""
        name = Path(lora.file).name
        report.notes.append(
            f"{name} at {lora.strength:g}: {lora.matched} modules matched{end}"
            + (", nothing added" if lora.strength == 0 else "")
        )
        report.notes += [f"{name}: {note}" for note in lora.notes]
        if unmatched:
            more = unmatched - UNMATCHED_SHOWN
            end = f" and {more} more" if more > 0 else ""
            report.warn(f"{name}: no layer for {', '.join(lora.unmatched[:UNMATCHED_SHOWN])}{end}")


def note_use(patcher: Any, matched: Matched, loras: Sequence[Lora]) -> None:
    """Write on a patcher which LoRAs it has in it, after those that it had."""
    before = patcher.get_attachment(ATTACHMENT) or ()
    uses = tuple(
        LoraUse(found.file, found.strength, lora.rslora, found.matched)
        for lora, found in zip(loras, matched.reports, strict=True)
    )
    patcher.set_attachments(ATTACHMENT, (*before, *uses))


def _dimensions(change: Change) -> dict[str, int]:
    """{role: number of dimensions} of an adapter's tensors."""
    specs = change.file.source.tensors
    return {role: len(specs[name].shape) for role, name in change.names.items()}


def _rank_stabilised(change: Change) -> dict[str, torch.Tensor]:
    """The alpha that makes the host's alpha / rank into alpha / sqrt(rank)."""
    role = next((role for role in RANKS.get(change.kind, ()) if role in change.names), None)
    if role is None:
        return {}
    operands = Operands(change.file.source, change.names, 1.0, change.target.key, rslora=True)
    rank = operands.shape(role)[0]
    return {"m.alpha": torch.tensor(operands.scale(rank) * rank)}
