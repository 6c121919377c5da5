"""A result file in, how long each scheme takes over 16 bits out.

The file is one of engine/measure/results.py. A row counts if it has `scheme` and `median_s`; rows
with the same `shape` (any JSON value; none: one group) are compared with each other, each scheme by
its fastest row, and `none` is what they are compared with.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused
from ..measure.results import Result, read_result
from ..scheme_names import resolve
from .machine import Machine, device_of_result

# benchmarks whose rows time something else than a step or its products
OTHER_TIMES = ("files", "host")


@dataclass(frozen=True)
class Measured:
    """`ratios`: scheme -> time over that of 16 bits. `file`: where it stands."""

    file: str
    device: str
    ratios: Mapping[str, float]


def measured_from(path: str | Path) -> Measured:
    """The ratios of a file; refuses one without times of steps or without 16-bit rows."""
    result = read_result(path)
    times = _fastest(result) if result.benchmark not in OTHER_TIMES else {}
    base = times.get("none", {})
    if not base:
        raise Refused(
            "no-times-of-steps",
            found=f"{Path(path).name}: benchmark {result.benchmark!r} without 16-bit rows",
            expected="rows with `scheme`, `median_s` and `shape`, among them the scheme none",
            fix="measure with fusequant bench ops",
        )
    ratios = {}
    for scheme, by_shape in times.items():
        common = by_shape.keys() & base.keys()
        if common:
            ratios[scheme] = sum(by_shape[x] for x in common) / sum(base[x] for x in common)
    return Measured(Path(path).name, device_of_result(result.hardware), ratios)


def _fastest(result: Result) -> dict[str, dict[str, float]]:
    """{scheme: {shape: seconds}}, the fastest backend of each."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in result.rows:
        scheme, seconds = row.get("scheme"), row.get("median_s")
        if not isinstance(scheme, str) or not isinstance(seconds, int | float) or seconds <= 0:
            continue
        shape = json.dumps(row.get("shape"))
        name = resolve(scheme)[0]
        found[name][shape] = min(float(seconds), found[name].get(shape, float("inf")))
    return found


def usable(measured: Measured | None, machine: Machine) -> tuple[Mapping[str, float], str | None]:
    """(the ratios, None), or ({}, why they say nothing of this machine)."""
    if measured is None:
        return {}, None
    if measured.device != machine.device:
        return {}, (
            f"{measured.file} was measured on {measured.device}, this is {machine.device}: "
            "its times are not used."
        )
    return measured.ratios, None
