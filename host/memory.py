"""A MODEL and what it may use of a device in, a MODEL that keeps to it while it is sampled out.

Nothing is set before sampling starts, and everything is put back when it ends or fails. What was
predicted and what was measured is logged at the end, shown on the node and kept on the MODEL.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.patcher_extension
import comfy.sampler_helpers

from ..engine.errors import Refused
from ..engine.measure.counters import AllocatorPeak
from ..engine.measure.timing import PrivatePeak
from ..engine.planned import PLACING, filled, setup_of
from ..engine.setup import AUTO, KEEP, LIMIT, LOW, Setup
from . import making, order, step_memory, vram
from .notice import tell_node
from .report import GIB, Report, size

log = logging.getLogger(__name__)

KEY = "fusequant_memory"
AUTO_OFFLOAD = "auto_offload"  # what other tools call auto
MODES = (AUTO, AUTO_OFFLOAD, LIMIT, LOW, KEEP)
_WRAPPERS = comfy.patcher_extension.WrappersMP

_MEANING = {
    AUTO: "ComfyUI decides which weights are on the device; the peak is measured",
    LIMIT: "this process uses at most {limit} of VRAM while this model is sampled",
    LOW: "no weight stays on the device: each is brought in for its layer; other models leave too",
    KEEP: "every weight is on the device before the first step, if the whole model fits",
}


@dataclass(frozen=True)
class Asked:
    """What the user and the plan ask for. Bytes; None: no limit, no buffer.

    `planned` names the fields that came from the plan.
    """

    mode: str = AUTO
    limit_bytes: int | None = None
    buffer_bytes: int | None = None
    planned: tuple[str, ...] = ()

    def room(self, found: vram.Vram) -> int | None:
        """Bytes that this process may use of a device; None: as many as ComfyUI likes."""
        rooms = [] if self.limit_bytes is None else [self.limit_bytes]
        if self.buffer_bytes is not None:
            rooms.append(max(0, found.total - found.foreign - self.buffer_bytes))
        return min(rooms, default=None)


def asked(
    mode: str | None, limit_gb: float | None, buffer_gb: float | None, plan: object = None
) -> Asked:
    """The user's choice; None and 0 leave a field open. A limit belongs to mode `limit`.

    Open fields, and mode auto, are taken from the plan.
    """
    mode = AUTO if mode in (None, AUTO_OFFLOAD) else str(mode)
    own = Asked(mode, int((limit_gb or 0) * GIB) or None, int((buffer_gb or 0) * GIB) or None)
    found, names = filled(own, setup_of(plan), PLACING)
    if found.mode == LIMIT and not found.limit_bytes:
        raise Refused(
            "limit-missing",
            found="mode limit without a number",
            expected="the GB of VRAM that this process may use",
            fix="set limit_gb, or choose another mode",
        )
    if found.mode != LIMIT:
        found = replace(found, limit_bytes=None)
    effective = (name for name in names if getattr(found, name) is not None)
    return replace(found, planned=tuple(effective))


@dataclass
class Run:
    """One sampling. `parts` add up to the prediction of `peak_bytes`; None where nothing is told.

    `taken_bytes`: the peak with what torch's allocator caches, which a limit is held against.
    """

    device: str
    mode: str
    limit_bytes: int | None = None
    parts: dict[str, int] = field(default_factory=dict)
    peak_bytes: int | None = None
    taken_bytes: int | None = None
    in_use: str = ""
    notes: list[str] = field(default_factory=list)
    stopped: str = ""

    @property
    def predicted_bytes(self) -> int:
        """The sum of the parts."""
        return sum(self.parts.values())

    def text(self) -> str:
        """The line of the log: measured against predicted."""
        measured = "unknown" if self.peak_bytes is None else size(self.peak_bytes)
        parts = " + ".join(f"{name} {size(count)}" for name, count in self.parts.items())
        lines = [
            f"VRAM Manager ({self.mode}): peak measured {measured}, predicted "
            f"{size(self.predicted_bytes)} on {self.device} ({parts}){self.in_use}{self.stopped}"
        ]
        if self.limit_bytes is not None and self.taken_bytes is not None:
            over = self.taken_bytes - self.limit_bytes
            lines.append(
                f"over the limit by {size(over)}: activations are larger than ComfyUI estimates; "
                "sample fewer pixels or lower the limit by as much"
                if over > 0
                else f"the limit of {size(self.limit_bytes)} was kept"
            )
        return "; ".join([*lines, *self.notes])


@dataclass
class MemoryLog:
    """What was measured on a MODEL and its clones, newest last: an attachment of the MODEL."""

    runs: list[Run] = field(default_factory=list)

    def text(self) -> str:
        """The newest measurement, or that there is none yet."""
        return self.runs[-1].text() if self.runs else "VRAM Manager: nothing was sampled yet"


def measured(patcher: Any) -> MemoryLog | None:
    """What the VRAM Manager before this MODEL has measured; None where there is none."""
    found = patcher.get_attachment(KEY)
    return found if isinstance(found, MemoryLog) else None


def manage(
    patcher: Any, wanted: Asked, plan: Any = None, node_id: str | None = None
) -> tuple[Any, Report]:
    """(clone of `patcher` that keeps to `wanted`, report). The last manager in a row acts alone."""
    result, memory_log = patcher.clone(), MemoryLog()
    watcher = SamplingMemory(wanted, memory_log, node_id)
    for kind, call in (
        (_WRAPPERS.PREPARE_SAMPLING, watcher.prepare),
        (_WRAPPERS.OUTER_SAMPLE, watcher.sample),
    ):
        result.remove_wrappers_with_key(kind, KEY)
        result.add_wrapper_with_key(kind, KEY, call)
    result.set_attachments(KEY, memory_log)
    return result, _told(result, wanted, plan)


def _told(patcher: Any, wanted: Asked, plan: Any) -> Report:
    """What can be said before anything is sampled."""
    report = Report(f"VRAM Manager: {wanted.mode}")
    limit = size(wanted.limit_bytes or 0)
    report.notes.append(_MEANING[wanted.mode].format(limit=limit))
    device, weights = patcher.load_device, patcher.model_size()
    report.notes.append(f"weights of this model: {size(weights)}; device: {device}")
    blocked = vram.why_not(patcher)
    room = None if blocked else wanted.room(vram.facts(device))
    if blocked is not None:
        report.notes.append(f"nothing is limited here: {blocked}")
    elif room is not None:
        left = max(0, room - vram.CONTEXT_BYTES)
        kept = f"all weights stay, if activations take less than {size(left - weights)}"
        some = f"less than {size(left)} of the weights stay"
        report.notes.append(f"may use {size(room)}: {kept if weights < left else some}")
    setup = setup_of(plan)
    if setup is not None:
        report.notes.append(_from_plan(wanted, setup))
    made = making.told(patcher)
    if made is not None:
        report.notes.append(made)
    report.notes.append("the measured peak is logged and shown on this node when sampling ends")
    late = order.warning(patcher)
    if late is not None:
        report.warn(late)
    return report


def _from_plan(wanted: Asked, setup: Setup) -> str:
    """What was taken from the plan, and what it predicts."""
    values = {name.removesuffix("_bytes"): getattr(wanted, name) for name in wanted.planned}
    taken = [f"{name} {size(v) if isinstance(v, int) else v}" for name, v in values.items()]
    return (
        f"from the plan: {', '.join(taken) or 'nothing, all is set here'}; "
        f"it predicts {size(setup.needs.vram_bytes)} of VRAM"
    )


class SamplingMemory:
    """The two wrappers of one VRAM Manager: around loading, and around the whole of sampling."""

    def __init__(self, wanted: Asked, memory_log: MemoryLog, node_id: str | None) -> None:
        self._wanted, self._log, self._node_id = wanted, memory_log, node_id
        self._running: list[tuple[Run, float, ExitStack]] = []

    def sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Measure a sampling and undo what `prepare` has set, however it ends."""
        guider = executor.class_obj
        patcher = guider.model_patcher
        device = patcher.load_device
        limit = None if vram.why_not(patcher) else self._wanted.limit_bytes
        run = Run(str(device), self._wanted.mode, limit)
        with ExitStack() as undo, vram.watched(device) as peak:
            if device.type == "cpu":
                run.parts["held before"] = peak.baseline_bytes or 0
                run.parts["libraries"] = step_memory.LIBRARIES_BYTES
            self._running.append((run, float(getattr(guider, "cfg", 2.0)), undo))
            undo.callback(self._running.pop)
            try:
                return executor(*args, **kwargs)
            except BaseException as error:
                run.stopped = f", stopped by {type(error).__name__}"
                raise
            finally:
                undo.callback(self._finish, run, patcher, peak)

    def prepare(
        self, executor: Any, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Have the host load the MODEL so that it keeps to what was asked for."""
        run, cfg, undo = self._running[-1] if self._running else (Run("", ""), 2.0, None)
        batched, single = _activations(model, noise_shape, conds)
        activations = single if cfg == 1.0 else batched
        more = activations - single
        act = vram.why_not(model) is None
        if act and self._wanted.mode == KEEP:
            kwargs |= self._keep(model, activations, run)
        patched = step_memory.patched_weights(model)  # made while it is loaded
        with vram.reserve(self._reserve(model, more) if act else None):
            result = executor(model, noise_shape, conds, *args, **kwargs)
        if undo is not None:
            cap = self._cap(model, activations, undo) if act and model.is_dynamic() else None
            if model.load_device.type == "cpu":
                held = patched | step_memory.packed_weights(model)
            else:
                held = step_memory.on_device(model, cap)
            step = step_memory.step_bytes_of(model, noise_shape, conds, cfg != 1.0)
            run.parts |= {**held, "step": activations if step is None else step}
        return result

    def _reserve(self, model: Any, more: int) -> int | None:
        """Bytes that the host must leave free so that it loads no weight too many."""
        found = vram.facts(model.load_device)
        if self._wanted.mode == LOW:
            return found.total
        room = self._wanted.room(found)
        return None if room is None else max(0, found.total - found.foreign - room) + more

    def _keep(self, model: Any, activations: int, run: Run) -> dict[str, bool]:
        """The host's own wish for a full load, where it fits."""
        found = vram.facts(model.load_device)
        needed = model.model_size() + activations + vram.CONTEXT_BYTES
        there = self._wanted.room(found)
        there = found.total - found.foreign if there is None else there
        if needed <= there:
            return {"force_full_load": True} if not model.is_dynamic() else {}
        run.notes.append(
            f"not kept resident: {size(needed)} are needed and {size(there)} can be used"
        )
        return {}

    def _cap(self, model: Any, activations: int, undo: ExitStack) -> int | None:
        """Dynamic VRAM: a watermark over the pages of this MODEL, or a hold on them.

        The bytes that may be resident, None: all.
        """
        found = vram.facts(model.load_device)
        room = 0 if self._wanted.mode == LOW else self._wanted.room(found)
        if room is not None:
            room = max(0, room - activations - vram.CONTEXT_BYTES)
            others = vram.other_bytes(model)
            vram.evict_others(model, others + min(model.model_size(), room) - room)
            left = max(0, room - vram.other_bytes(model))
            if vram.cap_pages(model, left):
                undo.callback(vram.uncap_pages, model)
                return left
        elif self._wanted.mode == KEEP and vram.hold_pages(model, model.model_size()):
            undo.callback(vram.hold_pages, model, 0)
        return None

    def _finish(self, run: Run, patcher: Any, peak: PrivatePeak | AllocatorPeak) -> None:
        device = patcher.load_device
        run.peak_bytes = run.taken_bytes = peak.peak_bytes
        if isinstance(peak, AllocatorPeak) and peak.peak_bytes is not None:
            paged = sum(vram.resident_bytes(x) for x in vram.loaded(device) if x.is_dynamic())
            run.peak_bytes += paged  # pages are not the allocator's
            run.taken_bytes = paged + (peak.taken_bytes or 0)
            now = vram.facts(device)
            run.in_use = (
                f", {size(run.taken_bytes)} with what torch caches, device in use by all programs "
                f"{size(now.total - now.free)}"
            )
        self._log.runs = [*self._log.runs[-9:], run]
        log.info("%s", run.text())
        tell_node(self._node_id, run.text())


def _activations(model: Any, noise_shape: Any, conds: Any) -> tuple[int, int]:
    """The host's estimate of what a step needs beside weights: (both conditions at once, one)."""
    batched, single = comfy.sampler_helpers.estimate_memory(model, noise_shape, conds)
    return int(batched), int(single)
