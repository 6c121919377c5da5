"""What was done to each layer in, the report that a node shows out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

GIB = 2**30
NAMES_SHOWN = 3


@dataclass
class Report:
    """Filled layer by layer; `text` is what the user reads."""

    title: str
    family: str = ""
    notes: list[str] = field(default_factory=list)
    schemes: Counter[str] = field(default_factory=Counter)
    kept: dict[str, list[str]] = field(default_factory=dict)  # reason: names
    warnings: list[str] = field(default_factory=list)
    fused: int = 0
    live: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    baseline: str = "BF16"
    seconds: float = 0.0
    # while it was made, over what was held before, by memory
    predicted: dict[str, int] = field(default_factory=dict)
    measured: dict[str, int] = field(default_factory=dict)

    def keep(self, name: str, why: str) -> None:
        """Record a layer that stays as it is."""
        self.kept.setdefault(why, []).append(name)

    def warn(self, text: str) -> None:
        """Record something that the user should know."""
        self.warnings.append(text)

    @property
    def quantized(self) -> int:
        """How many layers were quantized now."""
        return sum(self.schemes.values())

    def text(self) -> str:
        """The lines of the report."""
        lines = [f"{self.title}{f' ({self.family})' if self.family else ''}", *self.notes]
        if self.schemes:
            counted = ", ".join(f"{n} x {scheme}" for scheme, n in sorted(self.schemes.items()))
            lines.append(f"quantized: {counted}")
        if self.fused:
            lines.append(f"LoRA fused before quantizing: {self.fused} layers, in float32")
        if self.live:
            lines.append(f"LoRA left to ComfyUI: {self.live} unquantized parameters")
        lines += [f"kept {len(names)}: {why} ({shown(names)})" for why, names in self.kept.items()]
        if self.bytes_before:
            lines.append(self._saved())
        if self.predicted:
            lines.append(self.memory_text())
        if self.seconds:
            lines.append(f"took {self.seconds:.1f} s")
        return "\n".join(lines + [f"WARNING: {warning}" for warning in self.warnings])

    def memory_text(self) -> str:
        """Peaks while it was made, measured and predicted."""
        told = "; ".join(_peak(x, self.measured.get(x), y) for x, y in self.predicted.items())
        return f"peak while it was made, over what was held before: {told}"

    def _saved(self) -> str:
        saved = self.bytes_before - self.bytes_after
        share = 100 * saved / self.bytes_before
        return (
            f"weights: {size(self.bytes_before)} -> {size(self.bytes_after)}, "
            f"{size(saved)} ({share:.0f} %) less than in {self.baseline}"
        )


def _peak(memory: str, measured: int | None, predicted: int) -> str:
    found = "unknown" if measured is None else size(measured)
    return f"{memory} measured {found}, predicted {size(predicted)}"


def size(count: int) -> str:
    """Bytes for a reader."""
    if abs(count) < GIB / 10:
        return f"{count / 2**20:.1f} MiB"
    return f"{count / GIB:.2f} GiB"


def shown(names: Sequence[str]) -> str:
    """The first few names."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
