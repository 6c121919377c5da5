"""A result of `fusequant bench ops` in, how long each scheme takes over 16 bits out.

The file is one of engine/measure/results.py. A row counts if it has `scheme`, `backend`,
`median_s`, `n`, `k` and `tokens`; `count` is how many layers have that shape. A scheme on a backend
counts if it ran every shape that the baseline, scheme `none`, ran; its fastest one speaks for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused
from ..measure.results import Result, read_result
from ..scheme_names import resolve
from .machine import Machine, device_of_result

BASELINE = "none"
_NEEDED = ("scheme", "backend", "median_s", "n", "k", "tokens")
Shape = tuple[object, ...]


@dataclass(frozen=True)
class Pick:
    """A scheme as it was measured: `ratio` of the time of 16 bits, on `backend`.

    `backend` is None where the registry takes that one by itself.
    """

    ratio: float
    backend: str | None


@dataclass(frozen=True)
class Measured:
    """What a file says of each scheme, and on which class of devices it was measured."""

    file: str
    device: str
    picks: Mapping[str, Pick]


def measured_from(path: str | Path) -> Measured:
    """The picks of a file; refuses one without times of products or without its baseline."""
    result = read_result(path)
    times, automatic = _times(result)
    base = [found for (scheme, _), found in times.items() if scheme == BASELINE]
    if not base:
        raise Refused(
            "no-times-of-products",
            found=f"{Path(path).name}: benchmark {result.benchmark!r} without rows of products",
            expected=f"rows with {', '.join(_NEEDED)}, among them the scheme {BASELINE}",
            fix="measure with fusequant bench ops --save DIR",
        )
    picks: dict[str, Pick] = {}
    for (scheme, backend), found in times.items():
        if found.keys() != base[0].keys():
            continue
        ratio = sum(found.values()) / sum(base[0].values())
        if scheme not in picks or ratio < picks[scheme].ratio:
            forced = None if (scheme, backend) in automatic or scheme == BASELINE else backend
            picks[scheme] = Pick(ratio, forced)
    return Measured(Path(path).name, device_of_result(result.hardware), picks)


def _times(
    result: Result,
) -> tuple[dict[tuple[str, str], dict[Shape, float]], set[tuple[str, str]]]:
    """({(scheme, backend): {shape: seconds of all its layers}}, those that the registry takes)."""
    times: dict[tuple[str, str], dict[Shape, float]] = defaultdict(dict)
    automatic = set()
    for row in result.rows:
        seconds, count = row.get("median_s"), row.get("count", 1)
        if any(row.get(name) is None for name in _NEEDED):
            continue
        if not isinstance(seconds, int | float) or not isinstance(count, int) or seconds <= 0:
            continue
        if row.get("who", "fusequant") not in ("fusequant", "torch") or row.get("op", "x") is None:
            continue  # another tool's product, or one that no layer can be told to take
        who = (resolve(str(row["scheme"]))[0], str(row["backend"]))
        times[who][row["n"], row["k"], row["tokens"]] = count * float(seconds)
        automatic |= {who} if row.get("auto") else set()
    return dict(times), automatic


def usable(measured: Measured | None, machine: Machine) -> tuple[Mapping[str, Pick], str | None]:
    """(the picks, None), or ({}, why they say nothing of this machine)."""
    if measured is None:
        return {}, None
    if measured.device != machine.device:
        return {}, (
            f"{measured.file} was measured on {measured.device}, this is {machine.device}: "
            "its times are not used."
        )
    return measured.picks, None
