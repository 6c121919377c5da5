"""A size and schemes in, what converting such a file costs beside the plain ways out.

Every run is a process of its own; contenders take turns, so that a change of the machine meets all.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..compare import compare
from ..files.open import open_source
from ..measure.synthetic import write_flux_like
from .contender import KITCHEN

SCHEMES = ("fp8", "fp8_row", "int8", "int8_convrot")
# share of the comfy-kitchen loop's time that a conversion may take, and its private memory
TIME_GOAL = {"fp8": 0.5, "fp8_row": 0.5, "int8": 0.5, "int8_convrot": 0.7}
MEMORY_GOAL_BYTES = 1 << 30


@dataclass(frozen=True)
class Row:
    """One contender at one scheme, all rounds."""

    scheme: str
    contender: str
    seconds: tuple[float, ...]
    private_peak_bytes: int | None
    facts: Mapping[str, Any]
    weight_error: float | None

    @property
    def median_s(self) -> float:
        """The middle one of the rounds."""
        return statistics.median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        """A row of the result file."""
        return {
            "scheme": self.scheme,
            "contender": self.contender,
            "median_s": round(self.median_s, 3),
            "seconds": [round(s, 3) for s in self.seconds],
            "private_peak_bytes": self.private_peak_bytes,
            "weight_error": self.weight_error,
            **self.facts,
        }


def run_once(contender: str, scheme: str, source: Path, target: Path) -> dict[str, Any]:
    """One process, one file; nobody pays for deleting the file of the one before."""
    if contender != "cp":
        target.unlink(missing_ok=True)
    package = __package__.removesuffix(".engine.bench")
    module = f"{package}.engine.bench.contender"
    command = [sys.executable, "-m", module, contender, scheme, str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{contender} at {scheme} failed: {done.stderr[-2000:]}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def mean_error(source: Path, made: Path) -> float:
    """Mean relative error over the matrices that were quantized."""
    first, second = open_source(source), open_source(made)
    try:
        errors = [x.relative_error for x in compare(first, second).layers if x.relative_error > 0]
        return statistics.fmean(errors) if errors else 0.0
    finally:
        first.close()
        second.close()


def bench_files(
    folder: Path,
    size_bytes: int,
    rounds: int = 3,
    schemes: Sequence[str] = SCHEMES,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Make the source in `folder`, then every contender in turns; everything is deleted after.

    The comfy-kitchen loop takes part where comfy-kitchen is installed and has the scheme.
    """
    source, target = folder / "bench-source.safetensors", folder / "bench-target.safetensors"
    copied = folder / "bench-copy.safetensors"
    tell(f"writing {size_bytes / 2**30:.1f} GiB of random weights")
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    errors: dict[tuple[str, str], float] = {}
    pairs = [("cp", "none")]
    for scheme in schemes:
        pairs.append(("fusequant", scheme))
        if scheme in KITCHEN and find_spec("comfy_kitchen"):
            pairs.append(("kitchen", scheme))
    try:
        write_flux_like(source, size_bytes)
        for turn in range(rounds):
            first = turn % len(pairs)  # nobody always follows the same neighbour
            for contender, scheme in pairs[first:] + pairs[:first]:
                made = copied if contender == "cp" else target
                facts = run_once(contender, scheme, source, made)
                runs.setdefault((contender, scheme), []).append(facts)
                tell(f"round {turn + 1}: {contender} {scheme} {facts['seconds']:.2f} s")
                if contender != "cp" and turn == 0:
                    errors[contender, scheme] = mean_error(source, target)
    finally:
        for path in (source, target, copied):
            path.unlink(missing_ok=True)
    return [_row(*pair, found, errors.get(pair)) for pair, found in runs.items()]


def _row(
    contender: str, scheme: str, found: Sequence[Mapping[str, Any]], error: float | None
) -> Row:
    measured = ("seconds", "private_peak_bytes")
    peaks = [run["private_peak_bytes"] for run in found if run["private_peak_bytes"] is not None]
    return Row(
        scheme=scheme,
        contender=contender,
        seconds=tuple(run["seconds"] for run in found),
        private_peak_bytes=max(peaks, default=None),
        facts={key: value for key, value in found[0].items() if key not in measured},
        weight_error=error,
    )
