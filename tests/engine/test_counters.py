"""The peak of a run from an allocator's counters, as `torch.cuda.memory_stats` gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from fusequant.engine.measure.counters import AllocatorPeak

MIB = 2**20


class Allocator:
    """Stands for the counters of a card: each look at them is the next of what was recorded."""

    def __init__(self, *recorded: tuple[int, int, int]) -> None:
        self._found: Iterator[tuple[int, int, int]] = iter(recorded)
        self._now = recorded[0]

    def look(self) -> None:
        """Go on to the next."""
        self._now = next(self._found)

    def __call__(self) -> Mapping[str, int]:
        allocated, mark, reserved = (mib * MIB for mib in self._now)
        return {
            "allocated_bytes.all.current": allocated, "allocated_bytes.all.peak": mark,
            "reserved_bytes.all.current": reserved,
        }  # fmt: skip


def test_a_mark_that_the_run_has_raised_is_the_peak_to_the_byte() -> None:
    card = Allocator((500, 600, 700), (500, 900, 1000))
    card.look()
    with AllocatorPeak(card, interval_s=60) as peak:
        card.look()
    assert (peak.baseline_bytes, peak.peak_bytes) == (500 * MIB, 900 * MIB)
    assert peak.over_baseline_bytes == 400 * MIB
    assert peak.taken_bytes == 1000 * MIB


def test_below_an_older_mark_what_was_seen_counts() -> None:
    card = Allocator((100, 5000, 700), (400, 5000, 800), (100, 5000, 800))
    card.look()
    with AllocatorPeak(card, interval_s=60) as peak:
        card.look()
        peak._handed_out._sample()
        card.look()
    assert peak.peak_bytes == 400 * MIB and peak.taken_bytes == 800 * MIB


def test_a_device_that_counts_nothing_tells_nothing() -> None:
    with AllocatorPeak(dict, interval_s=60) as peak:
        pass
    assert peak.peak_bytes is None and peak.over_baseline_bytes is None


def test_counters_are_read_after_a_failure_too() -> None:
    card = Allocator((500, 600, 700), (500, 900, 1000))
    card.look()
    with pytest.raises(ValueError, match="step"), AllocatorPeak(card, interval_s=60) as peak:
        card.look()
        raise ValueError("step")
    assert peak.peak_bytes == 900 * MIB
