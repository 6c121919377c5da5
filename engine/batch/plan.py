"""Entries in, what each would write and need out: sizes, memory, whether it is done already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import Refused
from ..memory import predicted_peak_bytes
from ..pipeline import Prepared
from ..recipe import METADATA_KEY
from ..stream import MAX_WORKERS, worker_count
from .entry import Entry, Part, Trouble
from .opening import prepared_for
from .ours import is_done, size_at

# private memory of a process that has torch and this package loaded: 153 MB measured on Linux
PROCESS_BYTES = 192 << 20

Moved = Callable[[int, int], None]


@dataclass(frozen=True)
class PlannedPart:
    """One file. `peaks[t - 1]` is the private memory of converting with `t` layers at once."""

    part: Part
    scheme: str
    recipe: str
    source_bytes: int
    bytes: int
    peaks: tuple[int, ...]
    done: bool
    loras: tuple[dict[str, object], ...]
    warnings: tuple[str, ...]

    @property
    def replaces_bytes(self) -> int:
        """The size of an older file that this one takes the place of."""
        return 0 if self.done else size_at(self.part.out)


@dataclass(frozen=True)
class Planned:
    """One recipe. Its files are made one after the other."""

    entry: Entry
    parts: tuple[PlannedPart, ...]

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.entry.name

    @property
    def done(self) -> bool:
        """Whether every file is there, whole and of this recipe."""
        return all(part.done for part in self.parts)

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(part.bytes for part in self.parts)

    @property
    def source_bytes(self) -> int:
        """Of all that is read."""
        return sum(part.source_bytes for part in self.parts)

    @property
    def scheme(self) -> str:
        """The scheme of its first file."""
        return self.parts[0].scheme

    @property
    def devices(self) -> frozenset[str]:
        """Devices besides the CPU that it computes on."""
        return frozenset(str(x.part.options["device"]) for x in self.parts) - {"cpu"}

    def layers_at_once(self, share: int, cap_bytes: int) -> int | None:
        """As many as the share of cores allows and the memory holds; None: not even one fits."""
        counts = range(min(share, *(len(part.peaks) for part in self.parts)), 0, -1)
        return next((t for t in counts if self.need_bytes(t) <= cap_bytes), None)

    def need_bytes(self, layers_at_once: int) -> int:
        """Private memory of the process that makes it; mapped pages of files are not counted."""
        return PROCESS_BYTES + max(part.peaks[layers_at_once - 1] for part in self.parts)


def plan(
    entries: Sequence[Entry], moved: Moved = lambda done, total: None
) -> tuple[list[Planned], list[Trouble]]:
    """Headers only. What cannot be planned becomes a trouble, and planning goes on."""
    planned, troubles = [], []
    for number, entry in enumerate(entries):
        moved(number, len(entries))
        try:
            planned.append(Planned(entry, tuple(_part(part) for part in entry.parts)))
        except Refused as refusal:
            troubles.append(Trouble(entry.name, refusal))
    moved(len(entries), len(entries))
    return planned, troubles


def _part(part: Part) -> PlannedPart:
    prepared = prepared_for(part)
    try:
        recipe = prepared.metadata[METADATA_KEY]
        weights = {x.tensors["weight"] for c in prepared.plan.choices for x in c.layer.parts}
        return PlannedPart(
            part=part,
            scheme=prepared.request.scheme,
            recipe=recipe,
            source_bytes=sum(prepared.source.tensors[name].size_bytes for name in weights),
            bytes=prepared.plan.bytes,
            peaks=_peaks(prepared),
            done=is_done(part.out, recipe, prepared.plan.bytes),
            loras=tuple(report.to_json() for report in prepared.fused.report),
            warnings=prepared.plan.warnings,
        )
    finally:
        prepared.close()


def _peaks(prepared: Prepared) -> tuple[int, ...]:
    """What each number of layers at once would need, here or on a machine with more cores."""
    device = prepared.request.device
    most = MAX_WORKERS if device == "cpu" else worker_count(device)
    return tuple(
        predicted_peak_bytes(prepared.outputs, prepared.fused, count + 1) for count in range(most)
    )
